"""Training, evaluation and prediction on real digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compactnets import InputError
from compactnets.classification.checkpoint import CheckpointRecord, load_checkpoint
from compactnets.classification.evaluation import evaluate, match_classes
from compactnets.classification.prediction import predict
from compactnets.classification.preparation import prepare
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.task import TASK
from compactnets.data import ImageSource, Preprocess
from compactnets.training.distributed import World, pick_device
from compactnets.training.preparation import fit_batch
from compactnets.training.recipe_files import load_recipe
from compactnets.training.step import Learner

from .helpers import FirstImages, digits_part

MakeRecipe = Callable[..., ClassificationRecipe]


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSource, ImageSource]:
    return digits_part(320, 90)


def test_training_learns_and_writes_a_run(
    tiny_recipe: MakeRecipe, digits: tuple[ImageSource, ImageSource], tmp_path: Path
) -> None:
    recipe = tiny_recipe(epochs=6, schedule={"warmup_epochs": 1}, optimizer={"nesterov": True}, channels_last=True)
    result = TASK.train(recipe, *digits, tmp_path / "run")
    assert result.best > 50  # ten classes: guessing gives 10 %
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert load_recipe(ClassificationRecipe, str(tmp_path / "run" / "recipe.yaml")) == recipe
    model, record = load_checkpoint(tmp_path / "run" / "last.safetensors")
    preprocess = Preprocess.from_dict(record.preprocess)
    assert preprocess.size == 8
    again = evaluate(model, digits[1], preprocess, batch_size=7)
    assert (again.top1_correct, again.images) == (result.final["top1_correct"], 90)
    assert again.loss == pytest.approx(result.final["loss"], rel=1e-4)
    best = load_checkpoint(tmp_path / "run" / "best.safetensors")[1].training
    assert best["top1_percent"] == max(line["top1_percent"] for line in lines)


def test_same_seed_same_weights(
    tiny_recipe: MakeRecipe, digits: tuple[ImageSource, ImageSource], tmp_path: Path
) -> None:
    recipe = tiny_recipe(
        augment={"crop": "pad", "pad": 1, "rotation": 10}, model_arguments={"stem": "cifar", "drop_rate": 0.2}
    )
    for name in ("a", "b"):
        TASK.train(recipe, *digits, tmp_path / name)
    other = tiny_recipe(seed=1, model_arguments={"stem": "cifar", "drop_rate": 0.2})
    TASK.train(other, *digits, tmp_path / "c")
    a, b, c = (load_checkpoint(tmp_path / name / "last.safetensors")[0].state_dict() for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["classifier.weight"], c["classifier.weight"])


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16", "channels_last": True},
        {"workers": 1},
        {"ema_decay": 0.9, "accumulate": 2, "mix": {"mixup": 0.2}},
        {"initialization": "fan_in"},
        {"clip_grad_norm": 1.0, "label_smoothing": 0.1},
        {"schedule": {"name": "multistep", "milestones": [1]}, "epochs": 2},
        {"optimizer": {"name": "rmsprop", "decay_norm_and_bias": False}},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_every_setting_runs(
    tiny_recipe: MakeRecipe, digits: tuple[ImageSource, ImageSource], tmp_path: Path, changes: dict[str, Any]
) -> None:
    result = TASK.train(
        tiny_recipe(**changes), FirstImages(digits[0], 64), FirstImages(digits[1], 32), tmp_path / "run"
    )
    assert np.isfinite(result.final["loss"])


def test_label_smoothing_and_clipping_have_an_effect(
    tiny_recipe: MakeRecipe, digits: tuple[ImageSource, ImageSource], tmp_path: Path
) -> None:
    weights = []
    for index, changes in enumerate(({}, {"label_smoothing": 0.2}, {"clip_grad_norm": 0.01})):
        TASK.train(
            tiny_recipe(**changes), FirstImages(digits[0], 64), FirstImages(digits[1], 32), tmp_path / str(index)
        )
        weights.append(load_checkpoint(tmp_path / str(index) / "last.safetensors")[0].state_dict()["classifier.weight"])
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_run_is_never_overwritten(
    tiny_recipe: MakeRecipe, digits: tuple[ImageSource, ImageSource], tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text("precious\n")
    with pytest.raises(InputError, match=r"holds metrics.jsonl but no checkpoint"):
        TASK.train(tiny_recipe(), *digits, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "precious\n"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "muffnet_x05"}, "no network is called 'muffnet_x05'; did you mean 'muffnet_x0_5'"),
        ({"model_arguments": {"stam": "cifar"}}, "takes no argument 'stam'; did you mean 'stem'"),
        ({"model_arguments": {"num_classes": 3}}, "num_classes follow from the data"),
        ({"preprocess": {"sise": 8}}, "unknown key 'sise'"),
    ],
)
def test_wrong_settings_leave_no_folder(
    tiny_recipe: MakeRecipe,
    digits: tuple[ImageSource, ImageSource],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        TASK.train(tiny_recipe(**changes), *digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops(
    tiny_recipe: MakeRecipe,
    digits: tuple[ImageSource, ImageSource],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Learner, "lr", lambda self, step: 1e30)  # which no recipe may ask for
    with pytest.raises(InputError, match=r"the loss is not finite at epoch 1/2, step \d+: 32 of 32 images \(digit"):
        TASK.train(tiny_recipe(epochs=2), *digits, tmp_path / "run")


def test_fine_tuning_replaces_the_classifier_and_says_so(
    tiny_recipe: MakeRecipe,
    tiny_checkpoint: Callable[..., Path],
    digits: tuple[ImageSource, ImageSource],
    capsys: pytest.CaptureFixture[str],
) -> None:
    init = tiny_checkpoint()
    recipe = tiny_recipe(preprocess={"size": 8, "mean": [0.5] * 3, "std": [0.25] * 3})
    prepared = prepare(recipe, digits[0], init)
    model, arguments = prepared.model, prepared.arguments
    old, _ = load_checkpoint(init)
    assert arguments["num_classes"] == 10
    for key, value in model.state_dict().items():
        if not key.startswith("classifier."):
            assert torch.equal(value, old.state_dict()[key]), key
    assert "classifier replaced: " in capsys.readouterr().err
    with pytest.raises(InputError, match="checkpoint of shufflenet_g3_x0_25, .*muffnet_x0_5"):
        prepare(tiny_recipe(model="muffnet_x0_5"), digits[0], init)


class FirstPixels(nn.Module):
    """A network whose guess is written in the image: the class of the brightest of the first pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, 0, :10] * 100

    def parameters(self, recurse: bool = True) -> Any:
        return iter([torch.zeros(1)])


def test_evaluation_counts_every_image_once(digits: tuple[ImageSource, ImageSource]) -> None:
    """Against a straight count over single images."""
    source, preprocess = digits[1], Preprocess(size=10, resize=None, mean=(0.0,), std=(1.0,))
    logits = torch.stack([FirstPixels()(preprocess(source.image(i))[None])[0] for i in range(len(source))])
    order = logits.topk(5, dim=1).indices
    labels = torch.from_numpy(source.labels)
    for batch_size in (1, 32, 90):
        result = evaluate(FirstPixels(), source, preprocess, batch_size=batch_size)
        assert result.images == len(source)
        assert result.top1_correct == int((order[:, 0] == labels).sum())
        assert result.top5_correct == int((order == labels[:, None]).any(1).sum())
        assert result.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)


def test_classes_are_matched_by_name(
    tiny_checkpoint: Callable[..., Path], digits: tuple[ImageSource, ImageSource]
) -> None:
    record = load_checkpoint(tiny_checkpoint())[1]
    named = [FirstImages(digits[1], 3, names) for names in (["cat", "dog", "owl"], ["owl", "cat"], ["cat", "fox"])]
    assert match_classes(record, named[0]) is None
    assert match_classes(record, named[1]) == [2, 0]
    with pytest.raises(InputError, match=r"1 classes that this checkpoint .* does not know \(fox\)"):
        match_classes(record, named[2])
    labelled = CheckpointRecord.model_validate({**record.model_dump(), "class_labels": ["a cat", "a dog", "an owl"]})
    assert match_classes(labelled, FirstImages(digits[1], 3, ["an owl", "a cat"])) == [2, 0]


def test_evaluation_uses_the_class_map(digits: tuple[ImageSource, ImageSource]) -> None:
    """A network that always says class 2, and a source whose class 0 is called so."""

    class Always(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 0.0, 5.0]]).expand(len(x), 3)

    source = FirstImages(digits[1], 50, ["owl", *"abcdefghi"])
    preprocess = Preprocess(size=8, resize=None, mean=(0.0,), std=(1.0,))
    result = evaluate(Always(), source, preprocess, class_map=[2] + [0] * 9)
    assert result.top1_correct == int((source.labels == 0).sum()) > 0


def test_predict_gives_an_error_for_a_broken_file_and_goes_on(
    tiny_checkpoint: Callable[..., Path], digits: tuple[ImageSource, ImageSource], tmp_path: Path
) -> None:
    model, record = load_checkpoint(tiny_checkpoint())
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    digits[1].image(0).save(good)
    bad.write_bytes(good.read_bytes()[:60])
    results = list(predict(model, record, [bad, good, tmp_path / "none.png"]))
    assert [result.error is None for result in results] == [False, True, False]
    assert str(bad) in (results[0].error or "")
    assert [guess.class_name for guess in results[1].guesses] != []
    assert sum(guess.probability for guess in results[1].guesses) == pytest.approx(1)
    values = [guess.probability for guess in results[1].guesses]
    assert values == sorted(values, reverse=True)


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="no device 'cuda:99' here"):
        pick_device("cuda:99")
    with pytest.raises(InputError, match="no device 'toaster' here"):
        pick_device("toaster")


@pytest.mark.slow
def test_compiled_step_trains(tiny_recipe: MakeRecipe, digits: tuple[ImageSource, ImageSource], tmp_path: Path) -> None:
    result = TASK.train(tiny_recipe(compile="default", epochs=4), *digits, tmp_path / "run")
    assert result.best > 30


def test_a_batch_larger_than_the_source_is_cut_and_the_rate_with_it(
    tiny_recipe: MakeRecipe, digits: tuple[ImageSource, ImageSource], capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = fit_batch(tiny_recipe(batch_size=64, lr=0.1, mix={"mixup": 0.2}), 21, "digits", World(), 2)
    assert (fitted.batch_size, fitted.lr_batch_size) == (20, 64)
    assert fitted.peak_lr == pytest.approx(0.1 * 20 / 64)
    assert "batch_size is 20, not 64: digits has 21 training images" in capsys.readouterr().err
    assert fit_batch(tiny_recipe(batch_size=16), 21, "digits", World()) == tiny_recipe(batch_size=16)
    with pytest.raises(InputError, match="batch_size = 10 .* 2 processes .*multiple of 4"):
        fit_batch(tiny_recipe(batch_size=10, mix={"cutmix": 1.0}), 21, "digits", World(size=2), 2)
    with pytest.raises(InputError, match="digits has 3 training images: expected at least 4"):
        fit_batch(tiny_recipe(batch_size=4), 3, "digits", World(size=4))
