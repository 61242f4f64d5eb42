"""Data sets of the Hugging Face Hub, from a cache that the ``datasets`` library itself has written: no network."""

from __future__ import annotations

import pickle
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from compactnets.data import ImageDataset, open_source
from compactnets.data.huggingface import HuggingFaceSource
from compactnets.errors import InputError

from .helpers import encode, noise

datasets = pytest.importorskip("datasets", reason="the datasets library is not installed (extra hf)")

Write = Callable[..., Any]
PETS = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}


class Published(datasets.GeneratorBasedBuilder):
    """A data set as a builder of the library: what the Hub's files become in the cache."""

    def __init__(self, features: dict[str, Any], rows: dict[str, list[dict[str, Any]]], **options: Any) -> None:
        self.published, self.rows = features, rows
        super().__init__(hash="0123abcd", **options)

    def _info(self) -> Any:
        return datasets.DatasetInfo(features=datasets.Features(self.published))

    def _split_generators(self, manager: Any) -> list[Any]:
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in self.rows]

    def _generate_examples(self, split: str) -> Any:
        yield from enumerate(self.rows[split])


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(own: socket.socket, *arguments: Any) -> None:
        assert own.family == socket.AF_UNIX, "the network was used"  # worker processes use local sockets
        connect(own, *arguments)

    def refuse_all(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse_all)
    monkeypatch.setattr(socket, "getaddrinfo", refuse_all)


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Put a data set into an empty cache of the library."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)

    def write(
        rows: dict[str, list[dict[str, Any]]],
        features: dict[str, Any] = PETS,
        name: str = "owner/pets",
        config: str = "default",
        prepare: bool = True,
    ) -> Any:
        own = {"repo_id": name, "dataset_name": name.split("/")[-1], "config_name": config}
        builder = Published(features, rows, cache_dir=str(cache), **own)
        if prepare:
            builder.download_and_prepare()
        return builder

    return write


def pets(labels: Sequence[int | None]) -> list[dict[str, Any]]:
    images = [
        {"bytes": encode(noise(8, 8, seed=row)), "path": f"{row}.png" if row else None} for row in range(len(labels))
    ]
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


@pytest.mark.parametrize("name", ["owner/pets", "pets", "some-owner/CamelCase.v1"])
@pytest.mark.parametrize("val", ["validation", "test", "valid", "val"])
def test_from_the_cache(publish: Write, name: str, val: str) -> None:
    publish({"train": pets([0, 1, 1]), val: pets([1, 0])}, name=name)
    train, source = open_source(f"hf:{name}", "train"), open_source(f"hf:{name}", "val")
    assert isinstance(source, HuggingFaceSource)
    assert train.labels.tolist() == [0, 1, 1]
    assert source.labels.tolist() == [1, 0]
    assert source.labels.dtype == np.int64
    assert source.class_names == ("cat", "dog")
    for index in range(3):
        assert train.image(index).tobytes() == noise(8, 8, seed=index).tobytes()
        assert train.encoded(index) == encode(noise(8, 8, seed=index))
    assert train.name(2) == "2.png"
    assert train.name(0) == f"hf:{name} train row 0"


def test_validation_comes_before_test(publish: Write) -> None:
    """As of ImageNet on the Hub, whose test images have no labels."""
    publish({"test": pets([-1]), "validation": pets([1])})
    assert open_source("hf:owner/pets", "val").labels.tolist() == [1]


def test_configurations(publish: Write) -> None:
    publish({"train": pets([0])}, config="small")
    publish({"train": pets([0, 1])}, config="large")
    assert len(open_source("hf:owner/pets:small", "train")) == 1
    assert len(open_source("hf:owner/pets:large", "train")) == 2
    for spec, message in (
        ("hf:owner/pets", "multiple 'owner/pets' configurations in the cache: .*; name one as hf:owner/pets:CONFIG"),
        ("hf:owner/pets:medium", r"for config 'medium' Available configs in the cache: \['large', 'small'\]; name one"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_source(spec, "train")
        assert "\n" not in str(caught.value)


def test_columns_by_their_declaration(publish: Write) -> None:
    """As of the Hub's CIFAR-100."""
    fine, coarse = datasets.ClassLabel(names=["ant", "bee"]), datasets.ClassLabel(names=["insect"])
    rows = [{"img": {"bytes": encode(noise(8, 8)), "path": None}, "coarse_label": 0, "fine_label": 1}]
    publish({"test": rows}, {"img": datasets.Image(), "coarse_label": coarse, "fine_label": fine})
    source = open_source("hf:owner/pets", "val")
    assert source.class_names == ("ant", "bee")
    assert source.labels.tolist() == [1]


def test_images_that_the_library_keeps_as_files(publish: Write, tmp_path: Path) -> None:
    """As it does for image folders; the file may have gone since."""
    photo = tmp_path / "photo.png"
    noise(8, 8, seed=3).save(photo)
    publish({"test": [{"image": {"bytes": None, "path": str(photo)}, "label": 0}]})
    source = open_source("hf:owner/pets", "val")
    assert source.image(0).tobytes() == noise(8, 8, seed=3).tobytes()
    photo.unlink()
    with pytest.raises(InputError, match=r"test row 0 .*photo\.png\) holds no image"):
        source.image(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_copies_and_worker_processes(publish: Write, workers: int) -> None:
    publish({"test": pets([0, 1] * 6)})
    source = open_source("hf:owner/pets", "val")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.image(5).tobytes() == noise(8, 8, seed=5).tobytes()
    assert copy.fingerprint() == source.fingerprint()
    dataset = ImageDataset(source, source.default_preprocess)
    batches = list(DataLoader(dataset, batch_size=5, num_workers=workers))
    assert [label for _, labels in batches for label in labels.tolist()] == [0, 1] * 6


@pytest.mark.parametrize(
    ("rows", "features", "split", "message"),
    [
        ({"train": pets([0])}, PETS, "val", "no val split: expected val or valid or validation or test, found train"),
        ({"test": pets([0])}, PETS, "train", "no train split: expected train, found test"),
        ({"test": pets([0, -1])}, PETS, "val", "test row 1: label -1 is outside .* published without labels"),
        ({"test": pets([0, None])}, PETS, "val", "1 rows of test have no label"),
        (
            {"test": [{"image": {"bytes": b"", "path": None}, "label": "cat"}]},
            {"image": datasets.Image(), "label": datasets.Value("string")},
            "val",
            r"one label column \(ClassLabel\), found image: Image, label: Value",
        ),
        ({"test": [{"text": "a"}]}, {"text": datasets.Value("string")}, "val", r"found text: Value"),
    ],
)
def test_one_clear_line(publish: Write, rows: Any, features: Any, split: Any, message: str) -> None:
    publish(rows, features)
    with pytest.raises(InputError, match=message) as caught:
        open_source("hf:owner/pets", split)
    assert "\n" not in str(caught.value)
    assert "hf:owner/pets" in str(caught.value)


def test_unreadable_image_has_its_row(publish: Write) -> None:
    rows = pets([0, 0])
    rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:60]
    publish({"test": rows})
    with pytest.raises(InputError, match=r"hf:owner/pets test row 1 \(1\.png\) cannot be read as an image"):
        open_source("hf:owner/pets", "val").image(1)


@pytest.mark.parametrize(
    "spec",
    [
        "hf:",
        "hf:a b",
        "hf:a/b/c",
        "hf:/etc/passwd",
        "hf:a/b:c:d",
        "hf:../x/y",
        "hf:..",
        "hf:../x",
        "hf:a/b:../c",
        "hf://a/b",
    ],
)
def test_bad_names(spec: str) -> None:
    with pytest.raises(InputError, match="expected hf:OWNER/NAME or hf:OWNER/NAME:CONFIG, such as .*, found "):
        open_source(spec, "val")


def test_not_in_the_cache(publish: Write) -> None:
    publish({"test": pets([0])})
    with pytest.raises(InputError, match=r"hf:owner/cars .*cache.*--download"):
        open_source("hf:owner/cars", "val")


def test_download_only_on_request(publish: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def deliver(name: str, config: str | None) -> Any:
        asked.append((name, config))
        return publish({"test": pets([1])}, name=name, config=config or "default", prepare=False)

    monkeypatch.setattr(datasets, "load_dataset_builder", deliver)
    with pytest.raises(InputError, match="pass --download"):
        open_source("hf:owner/pets", "val")
    assert not asked
    assert open_source("hf:owner/pets", "val", download=True).labels.tolist() == [1]
    assert asked == [("owner/pets", None)]
    assert open_source("hf:owner/pets", "val").labels.tolist() == [1]
    assert len(asked) == 1


def test_download_without_network(publish: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own attempt, with every connection refused; its retries are not waited for."""

    def refuse(*arguments: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach 'owner/cars' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(InputError, match="hf:owner/cars .*Couldn't reach 'owner/cars'") as caught:
        open_source("hf:owner/cars", "val", download=True)
    assert "\n" not in str(caught.value)


def test_download_does_not_take_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "pets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\./owner/pets .*another folder"):
        open_source("hf:owner/pets", "val", download=True)


def test_old_versions_are_refused(publish: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to version 3, a data set could be a Python script."""
    publish({"test": pets([0])})
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(InputError, match=r"datasets 4 .*found 3\.6\.0"):
        open_source("hf:owner/pets", "val")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"'hf:owner/pets' needs datasets, .*pip install 'compactnets\[hf\]'"):
        open_source("hf:owner/pets", "val")
