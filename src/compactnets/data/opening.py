"""Open the source that the user named."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from compactnets.console import say
from compactnets.data.archives import expand_pattern, find_archives, is_pattern
from compactnets.data.base import SPLITS, ImageSource, MissingSplitError, Split, describe, shorten
from compactnets.data.cifar import READERS, CifarSource, find_cifar
from compactnets.data.digits import DigitsSource
from compactnets.data.flat import FlatSource, find_flat
from compactnets.data.folder import FolderSource, is_divided
from compactnets.data.huggingface import PREFIX, HuggingFaceSource
from compactnets.data.listing import class_folders, holds_images, printable, summarize
from compactnets.data.parquet import ParquetSource, find_shards
from compactnets.data.presets import cifar_variant
from compactnets.data.table import SUFFIXES, TableSource
from compactnets.data.webdataset import WebDatasetSource
from compactnets.errors import InputError, did_you_mean
from compactnets.files import as_path

WORDS = ("digits", *READERS)
LAYOUTS = (
    "train/CLASS/*.jpg with val/CLASS/*.jpg (or val/*.jpg with val.txt), class folders alone, train-*.parquet with "
    "validation-*.parquet, train-*.tar with val-*.tar, torchvision's cifar-10-batches-py, or a table (.csv)"
)


def open_source(spec: str, split: Split, *, download: bool = False) -> ImageSource:
    """Open one split of the images that ``spec`` names.

    ``spec`` is one of

    * a word: ``digits``, ``cifar10``, ``cifar100``; a local folder of the same name is ``./cifar10``, and a warning
      says so;
    * ``hf:OWNER/NAME``: a data set of the Hugging Face Hub (:class:`HuggingFaceSource`);
    * tar archives by a pattern, ``shards/{train-{000..146},val-{00..06}}.tar`` (:class:`WebDatasetSource`);
    * the path of a folder, whose layout is recognised by what it holds: torchvision's CIFAR files
      (:class:`CifarSource`), Parquet shards (:class:`ParquetSource`), class folders (:class:`FolderSource`), a
      validation folder without them (:class:`FlatSource`), tar archives (:class:`WebDatasetSource`);
    * the path of a CSV file that lists images and their labels (:class:`TableSource`).

    ``cifar10`` and ``cifar100`` are searched in ``$COMPACTNETS_DATA``, by default ``~/.cache/compactnets``:
    torchvision's folder, or a folder of the word's name in any layout.

    A line on standard error counts the files among the images that are not read, and another names the classes without
    an image to evaluate on.

    Args:
        spec: word, name, pattern or path.
        split: ``"train"`` or ``"val"``.
        download: download ``cifar10`` or ``cifar100`` if missing, or ``hf:…``. Nothing else goes online.

    Raises:
        InputError: unknown word, missing or empty folder, unknown layout, no such split, or an error of the source.
    """
    source = open_quietly(spec, split, download=download)
    if os.environ.get("RANK", "0") != "0":  # one process reports for all
        return source
    if source.left_out:
        first = source.left_out[0]
        say(printable(f"note: {spec} ({split}): files left out: {summarize(source.left_out)}, the first is {first}"))
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    if split == "val" and not counts.all():
        lacking = [source.class_names[index] for index in np.flatnonzero(counts == 0)]
        say(
            printable(
                f"note: {spec} (val): no image of {len(lacking):,} of the {len(counts):,} classes: {shorten(lacking)}"
            )
        )
    return source


def open_quietly(spec: str, split: Split, *, download: bool = False) -> ImageSource:
    """Like :func:`open_source`, but without the note about files left out."""
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, found {split!r}")
    if download and spec not in READERS and not spec.startswith(PREFIX):
        warnings.warn(f"download has no effect on {spec!r}, only on {', '.join(READERS)} and hf:…", stacklevel=2)
    try:
        if spec in WORDS:
            if Path(spec).is_dir():
                warnings.warn(f"{spec!r} is read as the word, not as the folder here: write ./{spec}", stacklevel=2)
            return DigitsSource(split) if spec == "digits" else _open_cifar(spec, split, download)
        if spec.startswith(PREFIX):
            return HuggingFaceSource(spec, split, download=download)
        path = as_path(spec)
        if spec and os.path.isdir(path):  # unlike is_dir, no error for a pattern longer than a path may be
            return _open_folder(path, split, spec)
        if path.suffix.lower() in SUFFIXES and os.path.isfile(path):
            return TableSource(path, split, spec)
        if is_pattern(spec):
            return WebDatasetSource(expand_pattern(spec), split, spec, index_cache())
        raise InputError(_not_a_folder(spec, path))
    except OSError as error:
        raise InputError(f"{spec} cannot be read: {error.strerror or error}") from None


def data_root() -> Path:
    """Return the folder for named data sets and downloads."""
    return as_path(os.environ.get("COMPACTNETS_DATA") or "~/.cache/compactnets")


def index_cache() -> Path:
    """Return the folder that caches the indexes of tar archives."""
    return data_root() / "indexes"


def _open_folder(folder: Path, split: Split, spec: str) -> ImageSource:
    published = find_cifar(folder)
    if len(published) > 1:
        names = [READERS[variant].base_folder for _, variant in published]
        raise InputError(f"{spec} holds {' and '.join(names)}: give the path of one of them")
    if published:
        root, variant = published[0]
        return CifarSource(root, variant, split, spec)
    if shards := find_shards(folder):
        return ParquetSource(shards, split, spec)
    if split == "val" and (flat := find_flat(folder, spec)):
        return FlatSource(folder, *flat, spec)
    divided = is_divided(folder) or any(holds_images(folder / name) for name in class_folders(folder))
    if not divided and (archives := find_archives(folder)):
        return WebDatasetSource(archives, split, spec, index_cache())
    if not any(folder.iterdir()):
        raise InputError(f"{spec} is empty: expected {LAYOUTS}")
    if not any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir()):
        if flat := find_flat(folder, spec):
            table = f"; to train on them, give {flat[1]}" if flat[1].suffix.lower() in SUFFIXES else ""
            raise MissingSplitError(
                f"{spec} has no train split: it holds images and the ground truth of the val split{table}"
            )
        raise InputError(f"{spec} is not a source of images: expected {LAYOUTS}; found {describe(folder)}")
    return FolderSource(folder, split, spec)


def _open_cifar(word: str, split: Split, download: bool) -> ImageSource:
    root, reader = data_root(), READERS[word]
    if (root / reader.base_folder).is_dir():
        return CifarSource(root, word, split, word, download=download)
    if (root / word).is_dir():
        source = _open_folder(root / word, split, word)
        if cifar_variant(source.class_names) != word:
            raise InputError(
                f"{root / word} is not {word}: its classes are others ({', '.join(source.class_names[:3])}, …)"
            )
        return source
    if download:
        root.mkdir(parents=True, exist_ok=True)
        return CifarSource(root, word, split, word, download=True)
    raise InputError(
        f"{word} is not in {root} (looked for {reader.base_folder}/ and {word}/): pass --download to fetch it there, "
        f"set COMPACTNETS_DATA to the folder that holds it, or give its path"
    )


def _not_a_folder(spec: str, path: Path) -> str:
    if path.suffix.lower() in SUFFIXES and not path.exists():
        tables = [file.name for file in path.parent.glob("*") if file.suffix.lower() in SUFFIXES]
        return f"no table at {spec}{did_you_mean(path.name, tables)}"
    if spec and path.exists():
        return f"{spec} is a file: expected a folder ({LAYOUTS}) or one of {', '.join(WORDS)}"
    entries = path.parent.iterdir() if path.parent.is_dir() else ()
    siblings = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if os.sep in spec or "/" in spec:
        return f"no folder at {spec}{did_you_mean(path.name, siblings)}"
    near = did_you_mean(spec, [*WORDS, *siblings])
    return f"unknown source {spec!r}: expected one of {', '.join(WORDS)} or the path of a folder{near}"
