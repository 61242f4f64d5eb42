"""Parquet shards in the Hugging Face image layout."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import warnings
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from compactnets.data.base import (
    VAL_NAMES,
    ImageSource,
    MissingSplitError,
    Split,
    check_labels,
    check_same_classes,
    describe,
    shorten,
)
from compactnets.data.columns import choose_columns
from compactnets.data.content import digest_files
from compactnets.data.images import decode_image
from compactnets.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IN_MEMORY = 1 << 30  # bytes: a split up to this size is read entirely, a larger one by row groups
CACHED_GROUPS = 4  # row groups cached of a larger one
SHARD = re.compile(rf"(train|{'|'.join(VAL_NAMES)})(?:[-_.].*)?\.parquet", re.IGNORECASE)
NUMBERED = re.compile(r"-(\d+)-of-(\d+)\.parquet$")
EXPECTED = "an image column (a struct of bytes and path) and a label column (ClassLabel) in the 'huggingface' metadata"


class ParquetSource(ImageSource):
    """``train-*.parquet`` and ``validation-*`` (``val-*``, ``valid-*``, ``test-*``) with encoded images.

    An image is a struct of ``bytes`` and ``path``; the columns and the class names are those that the schema's
    ``huggingface`` metadata declares as ``Image`` and ``ClassLabel`` (if several: ``image``, and ``label`` or
    ``fine_label``). Opening reads the labels, and the encoded images of a split up to 1 GiB, which forked worker
    processes then share. For a larger split only the last few row groups are cached, which is fast in file order. For
    shuffling, it is copied once into the cache of the ``datasets`` library and memory-mapped.

    Args:
        folder: the folder that holds the shards.
        split: ``"train"`` or ``"val"``.
        spec: the source as the user named it.

    Raises:
        InputError: no shards of this split or not all of them, no Parquet file, no such columns, a label outside the
            class names, or other classes in the other split.
    """

    kind = "parquet"

    def __init__(self, folder: Path, split: Split, spec: str) -> None:
        by_split = _shards_by_split(folder)
        names = ("train",) if split == "train" else VAL_NAMES
        found = next((name for name in names if name in by_split), None)
        if found is None:
            raise MissingSplitError(
                f"{spec} has no {split} split: expected {' or '.join(f'{name}-*.parquet' for name in names)}, found "
                f"{describe(folder)}"
            )
        self.shards = by_split[found]
        _check_complete(self.shards)
        self._files: dict[Path, pq.ParquetFile] = {}
        self._groups: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        first = self.shards[0]
        self.image_column, self.label_column, class_names = _columns(first, self._open(first).schema_arrow)
        labels, self._group_places, starts, size = [], [], [0], 0
        for shard in self.shards:
            file = self._open(shard)
            check_same_classes(spec, first.name, class_names, shard.name, _columns(shard, file.schema_arrow)[2])
            labels.append(self._read_labels(shard, len(class_names)))
            for group in range(file.metadata.num_row_groups):
                metadata = file.metadata.row_group(group)
                self._group_places.append((shard, group))
                starts.append(starts[-1] + metadata.num_rows)
                size += metadata.total_byte_size
        self._starts = np.array(starts)  # first row of every row group, over all shards, and the count
        if not self._starts[-1]:
            raise InputError(f"{spec}: {shorten([shard.name for shard in self.shards])} hold no rows")
        others = [
            name for name in ("train", *VAL_NAMES) if name in by_split and (name == "train") != (found == "train")
        ]
        for other in others[:1]:
            shard = by_split[other][0]
            check_same_classes(spec, found, class_names, other, _columns(shard, self._open(shard).schema_arrow)[2])
        self._mapped: Any = None  # datasets.Dataset
        self._bytes = size
        self._capacity = len(self._group_places) if size <= IN_MEMORY else CACHED_GROUPS
        if size <= IN_MEMORY:
            for group in range(len(self._group_places)):
                self._group(group)
        super().__init__(spec, split, class_names, np.concatenate(labels))
        named = {shard for shards in by_split.values() for shard in shards}
        self.left_out = [
            path.name for path in sorted(folder.glob("*.parquet")) if path not in named and path.name[0] != "."
        ]

    def __getstate__(self) -> dict[str, Any]:
        # a spawned, not forked, worker process rereads the row groups as needed
        return {**self.__dict__, "_files": {}, "_groups": OrderedDict()}

    def prepare_for_shuffling(self) -> None:
        """Copy a split that is too large for memory once into a memory-mapped cache with fast random access.

        Without the ``datasets`` library it is not copied, and a warning explains the cost.

        Raises:
            InputError: the copy cannot be made.
        """
        if self._bytes <= IN_MEMORY or self._mapped is not None:
            return
        from compactnets.data.huggingface import map_parquet

        if importlib.util.find_spec("datasets") is None:
            warnings.warn(
                f"{self.spec}: {self._bytes / 1e9:.1f} GB of Parquet are slow to read in random order; after "
                f"python -m pip install 'compactnets[hf]' they are copied once and then fast",
                stacklevel=2,
            )
            return
        self._mapped = map_parquet(self.spec, self.shards, self.image_column)
        self._groups.clear()

    def image(self, index: int) -> Image.Image:
        cell = self._cell(index)
        if not cell or cell["bytes"] is None:
            raise InputError(
                f"{self._place(index)} holds no image bytes; expected encoded images inside the Parquet file"
            )
        name = self._place(index) + (f" ({cell['path']})" if cell.get("path") else "")
        return decode_image(io.BytesIO(cell["bytes"]), name)

    def encoded(self, index: int) -> bytes | None:
        data: bytes | None = (self._cell(index) or {}).get("bytes")
        return data

    def content(self) -> str:
        return digest_files([shard.name for shard in self.shards], self.shards)

    def name(self, index: int) -> str:
        return (self._cell(index) or {}).get("path") or self._place(index)

    def _cell(self, index: int) -> dict[str, Any] | None:
        if self._mapped is not None:
            mapped: dict[str, Any] | None = self._mapped[index][self.image_column]
            return mapped
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._group(group)[index - int(self._starts[group])].as_py()

    def _place(self, index: int) -> str:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard = self._group_places[group][0]
        first = next(
            start for (other, _), start in zip(self._group_places, self._starts, strict=False) if other == shard
        )
        return f"{shard} row {index - int(first)}"

    def _group(self, number: int) -> pa.ChunkedArray:
        """Return the image column of a row group, from memory or from disk."""
        if number in self._groups:
            self._groups.move_to_end(number)
            return self._groups[number]
        import pyarrow as pa

        shard, group = self._group_places[number]
        try:
            table = self._open(shard).read_row_group(group, columns=[self.image_column], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise InputError(_unreadable(shard, error)) from None
        self._groups[number] = table.column(self.image_column)
        if len(self._groups) > self._capacity:
            self._groups.popitem(last=False)
        return self._groups[number]

    def _open(self, shard: Path) -> pq.ParquetFile:
        if shard not in self._files:
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                self._files[shard] = pq.ParquetFile(shard, memory_map=True)
            except (pa.ArrowException, OSError) as error:
                raise InputError(_unreadable(shard, error)) from None
        return self._files[shard]

    def _read_labels(self, shard: Path, num_classes: int) -> np.ndarray:
        import pyarrow as pa

        try:
            column = self._open(shard).read(columns=[self.label_column]).column(self.label_column)
        except (pa.ArrowException, OSError) as error:
            raise InputError(_unreadable(shard, error)) from None
        if column.null_count:
            raise InputError(f"{shard}: {column.null_count:,} rows have no {self.label_column}")
        labels = column.to_numpy().astype(np.int64)
        check_labels(labels, num_classes, lambda row: f"{shard} row {row}", self.label_column)
        return labels


def find_shards(folder: Path) -> Path | None:
    """Return the folder of the Parquet shards, ``folder`` or ``folder/data``, or ``None`` if there are none."""
    for candidate in (folder, folder / "data"):
        if candidate.is_dir() and any(not path.name.startswith(".") for path in candidate.glob("*.parquet")):
            return candidate
    return None


def _shards_by_split(folder: Path) -> dict[str, list[Path]]:
    shards = defaultdict(list)
    for path in sorted(folder.glob("*.parquet")):
        if match := SHARD.fullmatch(path.name):
            shards[match[1].lower()].append(path)
    return shards


def _check_complete(shards: list[Path]) -> None:
    """Raise :class:`InputError` if numbered shards (``-00000-of-00005``) are incomplete."""
    numbers = [match for shard in shards if (match := NUMBERED.search(shard.name))]
    totals = sorted({int(match[2]) for match in numbers})
    if len(totals) > 1:
        raise InputError(
            f"{shards[0].parent}: expected shards of one set, found {shards[0].name} beside {shards[-1].name}"
        )
    if totals and (missing := sorted(set(range(totals[0])) - {int(match[1]) for match in numbers})):
        raise InputError(
            f"{shards[0].parent}: {len(missing)} of {totals[0]} shards are missing, the first is number {missing[0]} "
            f"(found {shorten([shard.name for shard in shards], 2)})"
        )


def _columns(shard: Path, schema: pa.Schema) -> tuple[str, str, tuple[str, ...]]:
    """Return image column, label column and class names by the schema and its ``huggingface`` metadata."""
    import pyarrow as pa

    found = shorten([f"{field.name} ({field.type})" for field in schema])
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
        images = [name for name, kind in kinds.items() if kind == "Image" and name in schema.names]
        labels = [name for name, kind in kinds.items() if kind == "ClassLabel" and name in schema.names]
        image, label = choose_columns(images, labels)
        class_names = tuple(str(name) for name in features[label]["names"]) if label else ()
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{shard}: expected {EXPECTED}, found {found} without that metadata") from None
    if image is None or label is None or not class_names:
        declared = shorten([f"{name}: {kind}" for name, kind in kinds.items()])
        raise InputError(f"{shard}: expected {EXPECTED}, found {found}, declared as {declared or 'nothing'}")
    image_type, label_type = schema.field(image).type, schema.field(label).type
    if not (pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0):
        raise InputError(f"{shard}: expected column {image} to be a struct of bytes and path, found {image_type}")
    if not pa.types.is_integer(label_type):
        raise InputError(f"{shard}: expected column {label} to hold integers, found {label_type}")
    return image, label, class_names


def _unreadable(shard: Path, error: Exception) -> str:
    return f"{shard} cannot be read as Parquet: {' '.join(str(error).split())[:200]}"
