"""The authors' checkpoint: equal logits, equal accuracy, and files that are no such checkpoint."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from compactnets.classification.evaluation import evaluate
from compactnets.data import ImageDataset, open_source
from compactnets.data.presets import IMAGENET
from compactnets.errors import InputError
from compactnets.models.form import is_form
from compactnets.models.legacy import convert_state_dict, load_legacy, rename_key

NAME = "menet_108_8x1_g3"
FILE = "108-MENet-8x1-group-3.pth.tar"


@pytest.fixture(scope="module")
def published(shared: Path) -> nn.Module:
    """The authors' network with the authors' weights."""
    network = timm.create_model(NAME).eval()
    network.load_state_dict(load_legacy(shared / "weights" / FILE))
    return network


def test_logits_equal_the_authors(shared: Path, published: nn.Module) -> None:
    reference = np.load(shared / "weights" / FILE.replace(".pth.tar", ".reference.npz"))
    images = ImageDataset(open_source(str(shared / "data" / "imagenet_sample"), "val"), IMAGENET)
    batch = torch.stack([images[index][0] for index in range(8)])
    assert [images[index][1] for index in range(8)] == reference["labels"].tolist()
    with torch.inference_mode():
        logits = published(batch).numpy()
    assert logits.shape == (8, 1000)
    np.testing.assert_allclose(logits, reference["logits"], rtol=0, atol=1e-4)


def test_accuracy_equals_the_authors(shared: Path, published: nn.Module) -> None:
    source = open_source(str(shared / "data" / "imagenet_sample"), "val")
    result = evaluate(published, source, IMAGENET, batch_size=50)
    assert (result.images, result.top1_correct, result.top5_correct) == (500, 315, 415)


def test_every_key_of_the_checkpoint_has_a_place_and_every_tensor_is_taken(shared: Path) -> None:
    stored = torch.load(shared / "weights" / FILE, map_location="cpu", weights_only=True)["state_dict"]
    converted = load_legacy(shared / "weights" / FILE)
    assert len(converted) == len(stored) == 487
    assert sum(tensor.numel() for tensor in converted.values()) == 667_988
    ours = timm.create_model(NAME).state_dict()
    assert {key for key in ours if not (key.endswith("num_batches_tracked") or is_form(key))} == set(converted)


# keys


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("features.init.conv.weight", "stem.conv.conv.weight"),
        ("features.init.bn.running_var", "stem.conv.norm.running_var"),
        ("features.stage_1_1.compress.weight", "stages.0.0.compress.conv.weight"),
        ("features.stage_1_1.bn_compress.bias", "stages.0.0.compress.norm.bias"),
        ("features.stage_2_8.depthwise.weight", "stages.1.7.depthwise.conv.weight"),
        ("features.stage_2_8.bn_depthwise.running_mean", "stages.1.7.depthwise.norm.running_mean"),
        ("features.stage_3_4.expand.weight", "stages.2.3.expand.conv.weight"),
        ("features.stage_3_4.bn_expand.num_batches_tracked", "stages.2.3.expand.norm.num_batches_tracked"),
        ("features.stage_1_2.s_merge.weight", "stages.0.1.merge.conv.weight"),
        ("features.stage_1_2.s_bn_merge.weight", "stages.0.1.merge.norm.weight"),
        ("features.stage_1_2.s_conv.weight", "stages.0.1.evolve.conv.weight"),
        ("features.stage_1_2.s_bn_conv.weight", "stages.0.1.evolve.norm.weight"),
        ("features.stage_1_2.s_evolve.weight", "stages.0.1.match.conv.weight"),
        ("features.stage_1_2.s_bn_evolve.weight", "stages.0.1.match.norm.weight"),
        ("classifier.bias", "classifier.bias"),
        ("module.classifier.weight", "classifier.weight"),
        ("_orig_mod.features.init.conv.weight", "stem.conv.conv.weight"),
        ("module._orig_mod.features.init.conv.weight", "stem.conv.conv.weight"),
        ("_orig_mod.module.features.init.conv.weight", "stem.conv.conv.weight"),
        ("features.stage_1_1.weight", None),
        ("features.0.conv.weight", None),
        ("classifier.1.weight", None),
        ("stem.conv.conv.weight", None),
    ],
)
def test_rename_key(key: str, ours: str | None) -> None:
    assert rename_key(key) == ours


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixed_checkpoint_loads(shared: Path, tmp_path: Path, prefix: str) -> None:
    """What ``DataParallel`` and ``torch.compile`` save: the same tensors under longer keys."""
    stored = torch.load(shared / "weights" / FILE, map_location="cpu", weights_only=True)
    prefixed = {prefix + key: value for key, value in stored["state_dict"].items()}
    torch.save({"name": stored["name"], "state_dict": prefixed}, tmp_path / "multi.pth.tar")
    plain = load_legacy(shared / "weights" / FILE)
    loaded = load_legacy(tmp_path / "multi.pth.tar")
    assert loaded.keys() == plain.keys()
    assert all(torch.equal(loaded[key], plain[key]) for key in plain)


def test_a_bare_state_dict_loads(tmp_path: Path) -> None:
    weight = torch.rand(3)
    torch.save({"features.init.bn.weight": weight}, tmp_path / "bare.pth")
    assert torch.equal(load_legacy(tmp_path / "bare.pth")["stem.conv.norm.weight"], weight)


def test_keys_of_another_network_are_named() -> None:
    state_dict = {"classifier.bias": torch.zeros(1)} | {f"layer{index}.weight": torch.zeros(1) for index in range(9)}
    with pytest.raises(InputError, match=r"found 9 .*layer0.weight, layer1.weight, layer2.weight$"):
        convert_state_dict(state_dict)


# hostile and broken files


class Bomb:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def _pickled(protocol: int) -> Callable[[Path, Path], object]:
    return lambda file, trap: file.write_bytes(pickle.dumps({"state_dict": Bomb(trap)}, protocol))


def _saved(archive: bool) -> Callable[[Path, Path], object]:
    def write(file: Path, trap: Path) -> None:
        torch.save({"name": "x", "state_dict": Bomb(trap)}, file, _use_new_zipfile_serialization=archive)

    return write


HOSTILE = {
    "torch.save": (_saved(archive=True), r"was refused: it holds (_io|io)\.open"),
    "torch.save before 1.6": (_saved(archive=False), r"was refused: it holds (_io|io)\.open"),
    "pickle protocol 0": (_pickled(0), "is not a PyTorch checkpoint"),
    "pickle protocol 2": (_pickled(2), "was refused: it holds"),
    "pickle protocol 4": (_pickled(4), "was refused: it holds"),
}


def test_the_trap_of_the_hostile_pickles_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed"))).close()
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickle_is_refused_and_not_executed(
    kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    write, message = HOSTILE[kind]
    file, trap = tmp_path / "hostile.pth.tar", tmp_path / "executed"
    write(file, trap)
    with pytest.raises(InputError, match=rf"hostile\.pth\.tar {message}") as caught:
        load_legacy(file)
    assert not trap.exists()
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's message says how to load it all the same
    assert not recwarn.list


def _write(value: object) -> Callable[[Path], object]:
    return lambda file: torch.save(value, file)


STATE: dict[str, Tensor] = {"features.init.conv.weight": torch.zeros(12, 3, 3, 3), "classifier.bias": torch.zeros(9)}
NOT_A_CHECKPOINT = "is not a PyTorch checkpoint, or a damaged one"
NO_STATE_DICT = "holds no state dict: expected a dictionary of tensors under 'state_dict'"

BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), NOT_A_CHECKPOINT),
    "text": (lambda file: file.write_text("hello, this is text\n"), NOT_A_CHECKPOINT),
    "JSON": (lambda file: file.write_text('{"state_dict": {}}\n'), NOT_A_CHECKPOINT),
    "YAML": (lambda file: file.write_text("epochs: 3\nmodel: menet\n"), NOT_A_CHECKPOINT),
    "JPEG": (lambda file: file.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(99)), NOT_A_CHECKPOINT),
    "tensor": (_write(torch.zeros(3)), NO_STATE_DICT),
    "list": (_write([torch.zeros(3)]), NO_STATE_DICT),
    "optimizer state": (_write({"state_dict": {0: torch.zeros(3)}}), NO_STATE_DICT),
    "no tensors": (_write({"state_dict": {}}), NO_STATE_DICT),
    "another record": (_write({"epoch": 3, "best": 0.5}), NO_STATE_DICT),
    "a module": (_write(nn.Linear(2, 2)), "was refused: it holds torch.nn.modules.linear.Linear"),
    "another network": (_write({"state_dict": nn.Linear(2, 2).state_dict()}), "found 2 others: weight, bias"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_checkpoint_gets_one_line(kind: str, tmp_path: Path) -> None:
    write, message = BROKEN[kind]
    write(tmp_path / "file.pth")
    with pytest.raises(InputError) as caught:
        load_legacy(tmp_path / "file.pth")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before 1.6"])
@pytest.mark.parametrize("kept", [0.02, 0.2, 0.5, 0.9, 0.99])
def test_truncated_file_gets_one_line(kept: float, archive: bool, tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "whole", _use_new_zipfile_serialization=archive)
    whole = (tmp_path / "whole").read_bytes()
    assert len(load_legacy(tmp_path / "whole")) == 2
    (tmp_path / "part").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match=NOT_A_CHECKPOINT):
        load_legacy(tmp_path / "part")


@pytest.mark.parametrize("place", ["nothing.pth", "."])
def test_no_such_file(place: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        load_legacy(tmp_path / place)
