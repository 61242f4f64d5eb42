"""Data sets of the Hugging Face Hub by name, through the ``datasets`` library."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compactnets.data.base import VAL_NAMES, ImageSource, MissingSplitError, Split, check_labels, shorten
from compactnets.data.columns import choose_columns
from compactnets.data.content import PLACES, WHOLE, digest_parts, spread
from compactnets.data.images import decode_image
from compactnets.errors import InputError, missing_extra

PREFIX = "hf:"
NAME = re.compile(r"hf:(\w[\w.-]*(?:/\w[\w.-]*)?)(?::(\w[\w.-]*))?", re.ASCII)
SYNTAX = "hf:OWNER/NAME or hf:OWNER/NAME:CONFIG, such as hf:uoft-cs/cifar10"


class HuggingFaceSource(ImageSource):
    """A data set of the Hub with an image column (``Image``) and a label column (``ClassLabel``).

    It is read, memory-mapped, from the cache of the ``datasets`` library, with the images encoded as published. Only
    ``download`` goes online. Code of the data set is never run: versions of the library that could (before 4) are
    rejected.

    The split ``"val"`` is the first existing one of ``val``, ``valid``, ``validation`` and ``test``. If there are
    several image or label columns, ``image`` and ``label`` or ``fine_label`` are used.

    Args:
        spec: ``hf:OWNER/NAME``, or ``hf:OWNER/NAME:CONFIG``.
        split: ``"train"`` or ``"val"``.
        download: download the data set, or its changes, into the library's cache.

    Raises:
        InputError: the library is missing, no such name, not in the cache, the download failed, no such split or
            columns, or labels outside the class names.
    """

    kind = "huggingface"

    def __init__(self, spec: str, split: Split, *, download: bool = False) -> None:
        match = NAME.fullmatch(spec)
        if match is None:
            raise InputError(f"expected {SYNTAX}, found {spec!r}")
        builder = _builder(spec, match[1], match[2], download)
        available = list(builder.info.splits or ())
        names = ("train",) if split == "train" else VAL_NAMES
        found = next((name for name in names if name in available), None)
        if found is None:
            raise MissingSplitError(
                f"{spec} has no {split} split: expected {' or '.join(names)}, found {shorten(available) or 'none'}"
            )
        with _errors_as_one_line(spec):
            import datasets

            dataset = builder.as_dataset(split=found)
            kinds = {name: type(feature).__name__ for name, feature in dataset.features.items()}
            image, label = choose_columns(
                [name for name, kind in kinds.items() if kind == "Image"],
                [name for name, kind in kinds.items() if kind == "ClassLabel"],
            )
            if image is None or label is None:
                declared = shorten([f"{name}: {kind}" for name, kind in kinds.items()], 8)
                raise InputError(
                    f"{spec}: expected one image column (Image) and one label column (ClassLabel), found {declared}"
                )
            class_names = dataset.features[label].names
            self.dataset = dataset.select_columns([image]).cast_column(image, datasets.Image(decode=False))
            column = dataset.data.column(label)
        self.image_column, self.split_name = image, found
        if column.null_count:
            raise InputError(f"{spec}: {column.null_count:,} rows of {found} have no {label}")
        labels = column.to_numpy().astype(np.int64)
        if not len(labels):
            raise InputError(f"{spec}: its split {found} holds no rows")
        check_labels(labels, len(class_names), lambda row: f"{spec} {found} row {row}", label)
        super().__init__(spec, split, class_names, labels)

    def image(self, index: int) -> Image.Image:
        cell = self.dataset[index][self.image_column]
        place = self._place(index) + (f" ({cell['path']})" if cell and cell["path"] else "")
        return decode_image(io.BytesIO(self._bytes(cell, place)), place)

    def encoded(self, index: int) -> bytes:
        return self._bytes(self.dataset[index][self.image_column], self._place(index))

    def content(self) -> str:
        """Return a digest of all images, or of 1,024 of them where the data set has more than 256 MB."""
        whole = len(self) if self.dataset.data.nbytes <= WHOLE else PLACES
        return digest_parts(self._content(index) for index in spread(len(self), whole))

    def name(self, index: int) -> str:
        cell = self.dataset[index][self.image_column]
        return (cell or {}).get("path") or self._place(index)

    def _place(self, index: int) -> str:
        return f"{self.spec} {self.split_name} row {index}"

    def _bytes(self, cell: dict[str, Any] | None, place: str) -> bytes:
        if cell and cell["bytes"] is not None:
            return bytes(cell["bytes"])
        if cell and cell["path"] and Path(cell["path"]).is_file():  # image folders on the Hub stay files
            try:
                return Path(cell["path"]).read_bytes()
            except OSError as error:
                raise InputError(f"{place} cannot be read: {error.strerror}") from None
        raise InputError(f"{place} holds no image: neither bytes nor an existing file")


def map_parquet(spec: str, shards: list[Path], column: str) -> Any:
    """Return a column of Parquet shards as a memory-mapped data set, copied once into the library's cache.

    Raises:
        InputError: the library is missing, or the shards cannot be copied.
    """
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets", "hf", f"a memory-mapped copy of {spec}") from None
    with _errors_as_one_line(spec):
        dataset = datasets.Dataset.from_parquet([str(shard.resolve()) for shard in shards], columns=[column])
        return dataset.cast_column(column, datasets.Image(decode=False))


def _builder(spec: str, name: str, config: str | None, download: bool) -> Any:
    """Return the library's builder, whose data is in its cache."""
    try:
        import datasets
        from datasets.packaged_modules.cache.cache import Cache
    except ImportError:
        raise missing_extra("datasets", "hf", f"the source {spec!r}") from None
    if int(datasets.__version__.split(".")[0]) < 4:
        raise InputError(
            f"{spec} needs datasets 4 or later, whose data sets are never code, found {datasets.__version__}: "
            f"python -m pip install -U datasets"
        )
    if download:
        if Path(name).exists():
            raise InputError(f"{spec}: the library would read ./{name} instead; download from another folder")
        with _errors_as_one_line(spec):
            builder = datasets.load_dataset_builder(name, config)
            builder.download_and_prepare()
            return builder
    with _errors_as_one_line(spec), _quiet():
        try:
            # load_dataset's offline fallback; called directly, it never goes online
            owned = {"repo_id": name, "dataset_name": name.split("/")[-1]}
            return Cache(**owned, config_name=config, version="auto", hash="auto")
        except ValueError as error:
            reason = " ".join(str(error).split())
            if "multiple" in reason or "Available configs" in reason:
                raise InputError(
                    f"{spec}: {reason.split(' Please specify')[0]}; name one as hf:{name}:CONFIG"
                ) from None
            raise InputError(
                f"{spec} is not in {datasets.config.HF_DATASETS_CACHE}: pass --download to fetch it there from the "
                f"Hugging Face Hub"
            ) from None


@contextmanager
def _errors_as_one_line(spec: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # from the library, its network stack or its readers
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{spec} could not be loaded: {reason}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's warnings about using its cache."""
    import datasets

    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
