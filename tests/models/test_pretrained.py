"""Weights by name: in the package, in a folder of the user's, through timm, and through the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import compactnets
from compactnets.classification.checkpoint import CheckpointRecord, load_checkpoint
from compactnets.classification.evaluation import evaluate
from compactnets.data import Preprocess, open_source
from compactnets.errors import InputError
from compactnets.models.pretrained import FOLDER, authors_files, find_weights, locate
from compactnets.models.registry import list_models
from compactnets.training.checkpoint import save_checkpoint

SHIPPED = [weights for weights in find_weights().values() if weights.path.parent == FOLDER]
MODEL = "shufflenet_g3_x0_25"

OWN = f"""
import sys, timm, torch, compactnets
from compactnets_cli import main
name, images = "{MODEL}.mine", torch.rand(2, 3, 16, 16)
model = timm.create_model(name, pretrained=True).eval()
assert model.num_classes == 3
assert timm.list_pretrained("{MODEL}*") == [name]
assert model.pretrained_cfg["mean"] == (0.5, 0.5, 0.5) and model.pretrained_cfg["input_size"] == (3, 16, 16)
assert model.stem.conv.conv.stride == (1, 1), "the form of the weights"
same = compactnets.create_model(name, pretrained=True).eval()
assert torch.equal(model(images), same(images))
fresh = timm.create_model(name).eval()
assert fresh.num_classes == 3 and not torch.equal(model(images), fresh(images))
other = timm.create_model(name, pretrained=True, num_classes=7)
assert other.classifier.out_features == 7
assert torch.equal(other.stem.conv.conv.weight, model.stem.conv.conv.weight)
backbone = timm.create_model(name, pretrained=True, features_only=True)
assert len(backbone(images)) == 4
plain = timm.create_model("{MODEL}")
assert plain.num_classes == 1000 and plain.stem.conv.conv.stride == (2, 2), "the default has no weights"
sys.argv = ["compactnets", "predict", "--weights", name, "picture.png", "--json"]
main()
"""


def test_weights_of_ones_own(tmp_path: Path) -> None:
    from PIL import Image

    model = compactnets.create_model(MODEL, stem="cifar", num_classes=3)
    preprocess = Preprocess(size=16, resize=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    record = CheckpointRecord(
        model=MODEL,
        arguments={"stem": "cifar", "num_classes": 3, "in_chans": 3},
        class_names=["a", "b", "c"],
        preprocess=preprocess.to_dict(),
        source="a test",
        license="none",
    )
    halves = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_checkpoint(tmp_path / f"{MODEL}.mine.safetensors", halves, record)
    (tmp_path / "muffnet_x0_5.broken.safetensors").write_text("no weights")  # neither weights nor a record
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    environment = {**os.environ, "COMPACTNETS_WEIGHTS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", OWN], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (prediction,) = json.loads(done.stdout)
    assert {guess["class_name"] for guess in prediction["guesses"]} == {"a", "b", "c"}


def test_names_that_have_no_weights() -> None:
    with pytest.raises(InputError, match=r"there are no weights 'menet_108_8x1_g3.cifar' of menet_108_8x1_g3 here"):
        compactnets.create_model("menet_108_8x1_g3.cifar")
    with pytest.raises(InputError, match=r"there are no weights 'shufflenet_g3_x1_0' of .*: it has none"):
        compactnets.create_model("shufflenet_g3_x1_0", pretrained=True)
    with pytest.raises(InputError, match="no network is called 'menet'"):
        compactnets.create_model("menet.cifar10")
    assert locate("nothing.here") == Path("nothing.here")


def test_the_authors_files_are_of_networks() -> None:
    assert set(authors_files()) <= set(list_models("menet*"))
    for name, file in authors_files().items():
        _, width, fusion, groups = name.split("_")
        assert file["file"] == f"{width}-MENet-{fusion}-group-{groups[1:]}.pth.tar"


def test_the_authors_checkpoint_is_known_by_its_sum(shared: Path) -> None:
    import hashlib

    path = shared / "weights" / "108-MENet-8x1-group-3.pth.tar"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == authors_files()["menet_108_8x1_g3"]["sha256"]


@pytest.mark.parametrize("weights", SHIPPED, ids=lambda weights: weights.name)
class TestShipped:
    def test_loads_through_timm(self, weights) -> None:
        model = timm.create_model(weights.name, pretrained=True).eval()
        loaded, record = load_checkpoint(weights.name)
        size = record.preprocess["size"]
        images = torch.rand(2, record.arguments["in_chans"], size, size)
        with torch.inference_mode():
            assert torch.equal(model(images), loaded(images))
        assert model.num_classes == len(record.class_names)

    def test_is_small_and_complete(self, weights) -> None:
        assert weights.path.stat().st_size < 5e6
        floating = [value for value in load_file(weights.path).values() if value.is_floating_point()]
        assert all(value.dtype == torch.float16 for value in floating)
        card = weights.path.with_suffix(".md").read_text(encoding="utf-8")
        training = weights.record["training"]
        assert f"{training['top1_percent']:.2f} % as shipped" in card
        assert weights.record["license"] == "Apache-2.0"
        for text in (card, weights.path.with_suffix(".json").read_text(encoding="utf-8")):
            assert not re.search(r"(?<![\w./])/\w+", text), "an absolute path of a machine"

    def test_has_the_accuracy_that_its_record_states(self, weights, shared: Path) -> None:
        """On a share of the images, within four standard errors; slow: on all of them, to the image."""
        data = str(shared / "data" / weights.record["training"]["data"])
        self.check(weights, data, every=20)

    @pytest.mark.slow
    def test_has_it_on_all_images(self, weights, shared: Path) -> None:
        data = str(shared / "data" / weights.record["training"]["data"])
        self.check(weights, data, every=1)

    def check(self, weights, data: str, every: int) -> None:
        model, record = load_checkpoint(weights.name)
        source = open_source(data, "val")
        preprocess, labels = Preprocess.from_dict(record.preprocess), source.labels
        indices = range(0, len(source), every)
        if every == 1:
            found = evaluate(model, source, preprocess).top1
        else:
            with torch.inference_mode():
                guesses = model(torch.stack([preprocess(source.image(index)) for index in indices])).argmax(dim=1)
            found = 100 * float((guesses == torch.as_tensor(labels[list(indices)])).float().mean())
        stated = record.training["top1_percent"]
        error = 100 * (stated / 100 * (1 - stated / 100) / len(indices)) ** 0.5
        assert found == pytest.approx(stated, abs=0.05 if every == 1 else 4 * error)
