"""Ask whether a network's accuracy after a search's short training could be told before: rank correlations.

python benchmarks/zero_cost.py SEARCH --data DATA --output FILE --note TEXT [--batch 64] [--draws 3]

SEARCH is the folder of a finished ``compactnets search`` on the same data. Each candidate that was trained is built
again as its training began, and scored on a batch of training images that is new in every draw. The record has
Spearman's rank correlation of each score with the accuracy after the first rung, which every candidate has, and after
the last. Beside multiply-adds and parameters, three scores of the literature:

- gradient norm: of the loss, over all weights (Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021,
  https://arxiv.org/abs/2101.08134);
- synflow: the sum of |weight x gradient| of the summed output for an image of ones, all weights replaced by their
  absolute values (Tanaka et al., NeurIPS 2020, https://arxiv.org/abs/2006.05467, summed over weights as by Abdelfattah
  et al.). Here batch normalisation has its first statistics, mean 0 and variance 1, instead of being removed;
- jacobian covariance: how little the gradients of the summed output by different images correlate (Mellor et al.,
  Neural Architecture Search without Training, first version, https://arxiv.org/abs/2006.04647v1).
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from harness import write_record  # beside this file
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.preparation import open_training, prepare
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.complexity import count
from compactnets.data import ImageSource
from compactnets.data.loading import make_eval_loader
from compactnets.data.part import PartOfSource, hold_out
from compactnets.search.space import Candidate
from compactnets.search.study import STUDY
from compactnets.training.checkpoint import read_record

FEWEST = 4  # networks to rank


def gradient_norm(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the norm of the gradient of the cross entropy by all weights; images are (N, C, H, W), labels (N,)."""
    model = copy.deepcopy(model).train()
    F.cross_entropy(model(images), labels).backward()
    return float(torch.stack([each.grad.norm() for each in _with_gradient(model)]).square().sum().sqrt())


def synflow(model: nn.Module, images: Tensor) -> float:
    """Return the logarithm of synflow, which ranks alike and does not overflow; only the images' shape counts."""
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    model(torch.ones(1, *images.shape[1:], dtype=torch.float64)).sum().backward()
    total = sum((each * each.grad).abs().sum() for each in _with_gradient(model))
    return float(torch.as_tensor(total).log())


def jacobian_covariance(model: nn.Module, images: Tensor) -> float:
    """Return Mellor et al.'s score of the correlations between images (N, C, H, W) of their gradients."""
    images = images.clone().requires_grad_()
    copy.deepcopy(model).train()(images).sum().backward()
    correlations = np.corrcoef(images.grad.flatten(1).double().numpy())  # type: ignore[union-attr]
    values = np.linalg.eigvalsh(correlations) + 1e-5
    return float(-np.sum(np.log(np.maximum(values, 1e-5)) + 1 / np.maximum(values, 1e-5)))


def _with_gradient(model: nn.Module) -> list[nn.Parameter]:
    return [each for each in model.parameters() if each.grad is not None]


def trained(folder: Path) -> list[dict[str, Any]]:
    """Return the candidates of a search that were trained: name of the run, and accuracy in percent by epochs."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / STUDY))
    study = optuna.load_study(study_name="compactnets", storage=optuna.storages.JournalStorage(backend))
    return [
        {
            "name": Candidate(**trial.user_attrs["candidate"]).key,
            **trial.user_attrs["candidate"],
            "top1_percent": {str(epochs): top1 for epochs, top1 in trial.intermediate_values.items()},
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED")
        and trial.intermediate_values
        and not {"reason", "compared"} & trial.user_attrs.keys()
    ]


def scores(recipe: ClassificationRecipe, source: ImageSource, batch: int, draws: int) -> dict[str, float]:
    """Return the scores of a network as its training begins, each the mean over draws of images and weights."""
    found: list[dict[str, float]] = []
    for draw in range(draws):
        torch.manual_seed(draw)
        prepared = prepare(recipe.model_copy(update={"seed": recipe.seed + draw}), source)
        chosen = np.random.default_rng(draw).choice(len(source), min(batch, len(source)), replace=False)
        loader = make_eval_loader(PartOfSource(source, sorted(chosen.tolist())), prepared.preprocess, batch_size=batch)
        (given,) = loader
        loader.close()
        found.append(
            {
                "gradient_norm": gradient_norm(prepared.model, given.images, given.labels),
                "synflow": synflow(prepared.model, given.images),
                "jacobian_covariance": jacobian_covariance(prepared.model, given.images),
            }
        )
    macs, params = count(prepared.model.eval(), tuple(given.images.shape[1:]))
    means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    return {"macs": macs, "params": params, **means}


def correlations(networks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return Spearman's rank correlation of every score with the accuracy after the first and the last rung."""
    epochs = sorted({int(each) for network in networks for each in network["top1_percent"]})
    rows = []
    for after in dict.fromkeys((epochs[0], epochs[-1])):
        ranked = [network for network in networks if str(after) in network["top1_percent"]]
        if len(ranked) < FEWEST:
            continue
        top1 = [network["top1_percent"][str(after)] for network in ranked]
        for score in ranked[0]["scores"]:
            found = spearmanr([network["scores"][score] for network in ranked], top1)
            rows.append(
                {
                    "score": score,
                    "epochs": after,
                    "networks": len(ranked),
                    "spearman": float(found.statistic),
                    "p": float(found.pvalue),
                }
            )
    return rows


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True, help="such as src/compactnets/recorded/zero_cost/a.json")
    parser.add_argument("--note", required=True, help="what the search was for")
    parser.add_argument("--batch", type=int, default=64, help="images that score a network")
    parser.add_argument("--draws", type=int, default=3, help="of images and first weights")
    given = parser.parse_args()
    if not (given.search / STUDY).is_file():
        parser.error(f"{given.search} holds no search: there is no {STUDY}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    networks = trained(given.search)
    if len(networks) < FEWEST:
        parser.error(f"{given.search} has {len(networks)} trained candidates: a rank needs {FEWEST}")
    for network in networks:
        record = read_record(given.search / "runs" / network["name"] / "last.safetensors", CheckpointRecord)
        recipe = ClassificationRecipe.model_validate(record.training["recipe"])
        source = open_training(given.data, recipe.split)
        if recipe.hold_out:
            source = hold_out(source, recipe.hold_out)[0]  # not those on which the accuracy is
        network["scores"] = scores(recipe, source, given.batch, given.draws)
        print(network["name"], network["top1_percent"], network["scores"], flush=True)
    rows = correlations(networks)
    content = {
        "note": given.note,
        "data": Path(given.data).name,
        "batch": given.batch,
        "draws": given.draws,
        "rows": rows,
        "networks": networks,
    }
    write_record(given.output, torch.device("cpu"), content)
    for row in rows:
        print(f"{row['score']}, {row['networks']} networks after {row['epochs']} epochs: {row['spearman']:.2f}")


if __name__ == "__main__":
    main()
