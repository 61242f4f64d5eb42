"""Parquet shards: the real ones, small ones, and what is wrong with others."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from compactnets.data import ImageDataset, open_source, parquet
from compactnets.data.parquet import ParquetSource
from compactnets.data.presets import CIFAR10, CIFAR10_CLASSES, IMAGENET
from compactnets.errors import InputError

from .helpers import encode, noise, write_shard


def test_cifar10(shared: Path) -> None:
    start = time.perf_counter()
    source = open_source(str(shared / "data" / "cifar10"), "train")
    assert time.perf_counter() - start < 2
    assert isinstance(source, ParquetSource)
    assert len(source) == 50_000
    assert source.class_names == CIFAR10_CLASSES
    assert source.default_preprocess == CIFAR10
    assert np.bincount(source.labels).tolist() == [5000] * 10
    for index in (0, 999, 1000, 9_999, 10_000, 49_999):  # the path of each image begins with its class
        assert source.name(index).split("/")[0] == source.class_names[source.labels[index]]
        assert source.image(index).size == (32, 32)
    assert len(open_source(str(shared / "data" / "cifar10"), "val")) == 10_000


def test_imagenet_sample(shared: Path) -> None:
    source = open_source(str(shared / "data" / "imagenet_sample"), "val")
    assert len(source) == 500
    assert len(source.class_names) == 1000
    assert source.labels.tolist() == sorted(source.labels) == list(range(0, 1000, 2))
    assert source.default_preprocess == IMAGENET
    with pytest.raises(InputError, match=r"no train split: expected train-\*\.parquet, found validation-00000"):
        open_source(str(shared / "data" / "imagenet_sample"), "train")


@pytest.mark.parametrize("word", ["validation", "val", "valid", "test"])
@pytest.mark.parametrize("folder", ["", "data"])
def test_names_and_rows(tmp_path: Path, word: str, folder: str) -> None:
    write_shard(tmp_path / folder / "train-00000-of-00002.parquet", [0, 1, 1])
    write_shard(tmp_path / folder / "train-00001-of-00002.parquet", [1, 0])
    write_shard(tmp_path / folder / f"{word}.parquet", [1])
    source = open_source(str(tmp_path), "train")
    assert source.labels.tolist() == [0, 1, 1, 1, 0]
    assert source.labels.dtype == np.int64
    for index, seed in enumerate([0, 1, 2, 0, 1]):
        assert source.image(index).tobytes() == noise(8, 8, seed=seed).tobytes()
    assert source.name(2) == "2.png"
    assert source.name(3).endswith("train-00001-of-00002.parquet row 0")  # no path is stored
    assert open_source(str(tmp_path), "val").labels.tolist() == [1]


def test_columns_by_their_declaration(tmp_path: Path) -> None:
    """The layout of the hub's CIFAR-100: ``img``, ``fine_label``, ``coarse_label``."""
    path = write_shard(tmp_path / "test.parquet", [1, 0], image_column="img", label_column="fine_label")
    assert open_source(str(tmp_path), "val").labels.tolist() == [1, 0]
    table = pq.read_table(path)
    metadata = table.schema.metadata[b"huggingface"].decode()
    coarse = metadata.replace('"fine_label"', '"coarse_label": {"names": ["x"], "_type": "ClassLabel"}, "fine_label"')
    table = table.append_column("coarse_label", pa.array([0, 0])).replace_schema_metadata({"huggingface": coarse})
    pq.write_table(table, path)
    assert open_source(str(tmp_path), "val").class_names == ("cat", "dog")


@pytest.mark.parametrize("in_memory", [0, 1 << 30])
def test_worker_processes_and_large_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    """A split above the limit keeps few row groups, in this process, a forked and a pickled one."""
    monkeypatch.setattr(parquet, "IN_MEMORY", in_memory)
    write_shard(tmp_path / "val.parquet", [0, 1] * 10)
    source = open_source(str(tmp_path), "val")
    assert isinstance(source, ParquetSource)
    expected = [noise(8, 8, seed=row).tobytes() for row in range(20)]
    copy = pickle.loads(pickle.dumps(source))
    for index in np.random.default_rng(0).permutation(20):
        assert source.image(index).tobytes() == copy.image(index).tobytes() == expected[index]
    assert len(source._groups) == (10 if in_memory else parquet.CACHED_GROUPS)
    dataset = ImageDataset(source, source.default_preprocess)
    batches = list(DataLoader(dataset, batch_size=5, num_workers=1))
    assert [label for _, labels in batches for label in labels.tolist()] == [0, 1] * 10


def test_large_splits_are_mapped_to_be_shuffled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row the same, in this process and a pickled one, out of shards in their order."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(parquet, "IN_MEMORY", 0)
    for number in range(2):
        write_shard(tmp_path / f"train-{number:05d}-of-00002.parquet", [0, 1] * 5)
    source = open_source(str(tmp_path), "train")
    assert isinstance(source, ParquetSource)
    before = [(source.name(row), source.encoded(row), source.image(row).tobytes()) for row in range(20)]
    source.prepare_for_shuffling()
    assert source._mapped is not None
    for one in (source, pickle.loads(pickle.dumps(source))):
        monkeypatch.setattr(one, "_group", lambda number: pytest.fail("a row group was read"))
        assert [(one.name(row), one.encoded(row), one.image(row).tobytes()) for row in range(20)] == before


def test_large_splits_without_the_library_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "IN_MEMORY", 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_shard(tmp_path / "train.parquet", [0, 1])
    source = open_source(str(tmp_path), "train")
    with pytest.warns(UserWarning, match=r"GB.*python -m pip install"):
        source.prepare_for_shuffling()
    assert source.image(1).size == (8, 8)


@pytest.mark.parametrize(
    ("shards", "split", "message"),
    [
        ({"train.parquet": {"labels": [0, 2]}}, "train", r"train\.parquet row 1: label 2 is outside the 2 class names"),
        ({"test.parquet": {"labels": [-1]}}, "val", "label -1 .* published without labels"),
        ({"test.parquet": {"labels": [0, None]}}, "val", "1 rows have no label"),
        ({"test.parquet": {"labels": []}}, "val", "hold no rows"),
        (
            {"test.parquet": {"labels": [0], "class_names": None}},
            "val",
            r"found image \(struct.*\), label \(int64\) with",
        ),
        ({"test.parquet": {"labels": [0], "class_names": []}}, "val", "declared as image: Image, label: ClassLabel"),
        ({"train.parquet": {"labels": [0]}}, "val", r"no val split: expected val-\*\.parquet .*found train\.parquet"),
        ({"other.parquet": {"labels": [0]}}, "train", r"no train split: .*found other\.parquet"),
        (
            {"train.parquet": {"labels": [0]}, "test.parquet": {"labels": [0], "class_names": ["cat", "fox"]}},
            "train",
            "train and test must have the same classes, found that only train has dog and only test has fox",
        ),
        (
            {"train.parquet": {"labels": [0]}, "test.parquet": {"labels": [0], "class_names": ["dog", "cat"]}},
            "val",
            "their order differs",
        ),
        (
            {"train-00001-of-00003.parquet": {"labels": [0]}},
            "train",
            "2 of 3 shards are missing, the first is number 0",
        ),
        (
            {"train-00000-of-00001.parquet": {"labels": [0]}, "train-00000-of-00002.parquet": {"labels": [0]}},
            "train",
            "expected shards of one set",
        ),
    ],
)
def test_one_clear_line(tmp_path: Path, shards: dict[str, dict], split: str, message: str) -> None:
    for name, options in shards.items():
        write_shard(tmp_path / name, **options)
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(tmp_path), split)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"a": [1], "b": ["x"]}), r"found a \(int64\), b \(string\) without that metadata"),
        (pa.table({"a": [1]}).replace_schema_metadata({"huggingface": "{"}), r"found a \(int64\) without"),
        (pa.table({"a": [1]}).replace_schema_metadata({"huggingface": '{"info": 3}'}), r"found a \(int64\) without"),
        (
            pa.table({"image": ["x"], "label": [0]}).replace_schema_metadata(
                {
                    "huggingface": '{"info": {"features": {"image": {"_type": "Image"}, '
                    '"label": {"_type": "ClassLabel", "names": ["a"]}}}}'
                }
            ),
            "expected column image to be a struct of bytes and path, found string",
        ),
    ],
)
def test_other_tables(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path), "val")


def test_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match=r"train\.parquet cannot be read as Parquet"):
        open_source(str(tmp_path), "train")


def test_truncated_shard(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "train.parquet", [0] * 50)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        open_source(str(tmp_path), "train")


def test_unreadable_image_has_shard_and_row(tmp_path: Path) -> None:
    good = encode(noise(8, 8))
    write_shard(tmp_path / "test-00000-of-00002.parquet", [0, 1, 1], images=[good, good, good])
    write_shard(tmp_path / "test-00001-of-00002.parquet", [0, 1, 1, 0], images=[None, good, good, good[:50]])
    source = open_source(str(tmp_path), "val")
    with pytest.raises(InputError, match=r"test-00001-of-00002\.parquet row 0 holds no image bytes"):
        source.image(3)
    with pytest.raises(InputError, match=r"test-00001-of-00002\.parquet row 3 \(3\.png\) cannot be read"):
        source.image(6)
