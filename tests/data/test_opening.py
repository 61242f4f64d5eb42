"""What the user types: words, paths and their mistakes; the digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from compactnets.data import ImageDataset, open_source
from compactnets.data.digits import DigitsSource
from compactnets.data.parquet import ParquetSource
from compactnets.errors import InputError

from .helpers import write_shard

FIRST_VAL_DIGITS = [21, 24, 28, 34, 35]  # in scikit-learn's order


def test_digits_are_scikit_learns() -> None:
    train, val = open_source("digits", "train"), open_source("digits", "val")
    assert isinstance(train, DigitsSource)
    assert (len(train), len(val)) == (1437, 360)
    digits = load_digits()
    assert sorted([*train.indices, *val.indices]) == list(range(1797))
    for source in (train, val):
        np.testing.assert_array_equal(source.labels, digits.target[source.indices])
        for index in (0, 17, 359):
            image = source.image(index)
            assert (image.mode, image.size) == ("L", (8, 8))
            pixels = digits.images[source.indices[index]]
            np.testing.assert_allclose(np.asarray(image), pixels * 255 / 16, atol=0.5)
    assert train.class_names == tuple("0123456789")


def test_digits_are_divided_by_class() -> None:
    shares = np.bincount(open_source("digits", "val").labels) / np.bincount(load_digits().target)
    np.testing.assert_allclose(shares, 0.2, atol=0.005)


def test_digits_division_is_fixed() -> None:
    """A recorded accuracy on the held-out digits stays comparable."""
    assert open_source("digits", "val").indices[:5].tolist() == FIRST_VAL_DIGITS  # type: ignore[attr-defined]


def test_digits_are_normalised_on_the_training_split() -> None:
    train, val = open_source("digits", "train"), open_source("digits", "val")
    preprocess = train.default_preprocess
    assert preprocess == val.default_preprocess
    assert (preprocess.size, preprocess.resize, preprocess.channels) == (16, None, 1)
    dataset = ImageDataset(train, preprocess)
    pixels = np.stack([dataset[index][0].numpy() for index in range(len(dataset))])
    assert pixels.shape == (1437, 1, 16, 16)
    assert abs(pixels.mean()) < 1e-3
    assert abs(pixels.std() - 1) < 1e-3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "unknown source 'digit': expected .*; did you mean 'digits'"),
        ("cifar-10", "unknown source 'cifar-10': .* did you mean 'cifar10'"),
        ("imagenett", "expected one of digits, cifar10, cifar100 or the path of a folder; did you mean 'imagenet'"),
        ("zzz", "unknown source 'zzz': expected one of digits"),
        ("", "unknown source ''"),
        ("./imagenett", "no folder at ./imagenett; did you mean 'imagenet'"),
        ("nowhere/at/all", "no folder at nowhere/at/all$"),
        ("notes.txt", r"notes\.txt is a file: expected a folder .* or one of digits"),
        ("x" * 5000, "x cannot be read: File name too long"),
        ("a\0b", "unknown source"),
    ],
)
def test_bad_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec, "train")
    assert "\n" not in str(caught.value)


def test_bad_split() -> None:
    with pytest.raises(InputError, match="split must be one of train, val, found 'test'"):
        open_source("digits", "test")  # type: ignore[arg-type]


def test_a_word_wins_over_a_folder_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "digits" / "val.parquet", [0, 1])
    with pytest.warns(UserWarning, match=r"'digits' is read as the word, not as the folder here: write ./digits"):
        assert isinstance(open_source("digits", "val"), DigitsSource)
    assert isinstance(open_source("./digits", "val"), ParquetSource)


def test_a_folder_needs_no_separator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "mine" / "val.parquet", [0, 1])
    assert len(open_source("mine", "val")) == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("~/mine", "val")) == 2


def test_a_word_finds_any_layout_below_the_data_root(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPACTNETS_DATA", str(shared / "data"))
    source = open_source("cifar10", "val")
    assert isinstance(source, ParquetSource)
    assert (source.spec, len(source)) == ("cifar10", 10_000)


def test_a_word_refuses_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPACTNETS_DATA", str(tmp_path))
    write_shard(tmp_path / "cifar10" / "val.parquet", [0, 1])
    with pytest.raises(InputError, match=r"is not cifar10: its classes are others \(cat, dog"):
        open_source("cifar10", "val")


def test_download_elsewhere_warns() -> None:
    with pytest.warns(UserWarning, match="download has no effect on 'digits'"):
        open_source("digits", "val", download=True)


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(Path, "iterdir", deny)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        open_source(str(tmp_path / "locked"), "val")


def test_repr() -> None:
    assert repr(open_source("digits", "val")) == "DigitsSource('digits', 'val'): 360 images of 10 classes"
