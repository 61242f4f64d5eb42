"""torchvision's CIFAR files: read where they are the published ones, never unpickled otherwise."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from compactnets.data import open_source
from compactnets.data.cifar import CifarSource
from compactnets.data.presets import CIFAR10 as CIFAR10_PREPROCESS
from compactnets.data.presets import CIFAR10_CLASSES
from compactnets.data.presets import CIFAR100 as CIFAR100_PREPROCESS
from compactnets.errors import InputError


def write_cifar(root: Path, reader: type[CIFAR10], monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Write files of the published layout with 20 images each, and have torchvision expect their sums."""
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    key = "labels" if reader is CIFAR10 else "fine_labels"
    pixels = {}

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    for attribute in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(reader, attribute):
            pixels[name] = random.integers(0, 256, (20, 3072), dtype=np.uint8)
            sums.append([name, write(name, {"data": pixels[name], key: list(range(10)) * 2})])
        monkeypatch.setattr(reader, attribute, sums)
    names = list(CIFAR10_CLASSES) if reader is CIFAR10 else [f"class{i}" for i in range(100)]
    md5 = write(reader.meta["filename"], {reader.meta["key"]: names})
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5})
    return pixels


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used without download=True")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    monkeypatch.setenv("COMPACTNETS_DATA", str(tmp_path / "cache"))


@pytest.mark.parametrize("place", ["path", "inner", "word"])
def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    root = tmp_path / "cache"
    pixels = write_cifar(root, CIFAR10, monkeypatch)
    spec = {"path": str(root), "inner": str(root / CIFAR10.base_folder), "word": "cifar10"}[place]
    train, val = open_source(spec, "train"), open_source(spec, "val")
    assert isinstance(train, CifarSource)
    assert (len(train), len(val)) == (100, 20)
    assert train.class_names == CIFAR10_CLASSES
    assert train.labels.tolist() == list(range(10)) * 10
    assert train.labels.dtype == np.int64
    assert train.spec == spec
    assert train.default_preprocess == CIFAR10_PREPROCESS
    expected = pixels["data_batch_2"][3].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(train.image(23)), expected)
    assert val.name(4) == "cifar-10-batches-py val image 4"


def test_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cache", CIFAR100, monkeypatch)
    source = open_source("cifar100", "train")
    assert len(source.class_names) == 100
    assert source.default_preprocess == CIFAR100_PREPROCESS


class Hostile:
    """A pickle that writes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_hostile_pickle_is_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, split: str
) -> None:
    root, target = tmp_path / "cache", tmp_path / "executed"
    write_cifar(root, CIFAR10, monkeypatch)
    file = root / CIFAR10.base_folder / name
    file.write_bytes(pickle.dumps(Hostile(target)))
    for spec in ("cifar10", str(root)):
        with pytest.raises(InputError, match=f"{name} .*pickle") as caught:
            open_source(spec, split)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert not target.exists()
    pickle.loads(file.read_bytes())
    assert target.exists()  # the file is what it claims to be


def test_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cache", CIFAR10, monkeypatch)
    (tmp_path / "cache" / CIFAR10.base_folder / "data_batch_5").unlink()
    with pytest.raises(InputError, match="cifar-10-batches-py .*data_batch_5.*data_batch_1"):
        open_source("cifar10", "train")


def test_both_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache"
    write_cifar(root, CIFAR10, monkeypatch)
    write_cifar(root, CIFAR100, monkeypatch)
    with pytest.raises(InputError, match="cifar-10-batches-py and cifar-100-python"):
        open_source(str(root), "train")
    assert len(open_source("cifar10", "val").class_names) == 10
    assert len(open_source("cifar100", "val").class_names) == 100


def test_absent_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cifar10 is not in .*cache .*pass --download .*COMPACTNETS_DATA"):
        open_source("cifar10", "train")
    assert not (tmp_path / "cache").exists()


def test_download_on_request_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache"
    asked = []

    def deliver(url: str, target: str, **options: object) -> None:
        asked.append(url)
        write_cifar(Path(target), CIFAR10, monkeypatch)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", deliver)
    assert len(open_source("cifar10", "val", download=True)) == 20
    assert asked == [CIFAR10.url]
    open_source("cifar10", "val", download=True)
    assert len(asked) == 1  # not again where it is there
    assert (root / CIFAR10.base_folder).is_dir()


def test_failed_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz could not be downloaded \(no route to host\)"):
        open_source("cifar10", "train", download=True)
