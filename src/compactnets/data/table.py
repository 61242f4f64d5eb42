"""Labels from a table: a CSV file with a line for each image."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from compactnets.data.base import MissingSplitError, Split
from compactnets.data.content import digest_files
from compactnets.data.folder import TRAIN_FOLDERS, VAL_FOLDERS, ImageFiles
from compactnets.data.listing import ENDINGS, compose, printable
from compactnets.errors import InputError
from compactnets.values import shorten as quoted

SUFFIXES = (".csv", ".tsv")
SEPARATORS = re.compile(r"[;|]")  # between the labels of a cell, where an image has several
# names of the columns, in any capitals, with spaces or hyphens; of several, the first here is read
IMAGE = (
    *("image", "path", "image_path", "file", "filename", "file_name", "filepath", "file_path", "image_file"),
    *("img", "img_path", "photo", "picture"),
)
LABEL = ("label", "class", "class_name", "category", "target", "labels", "classes")
SPLIT = ("split", "set", "subset", "partition")
DELIMITERS = ",;\t"
MOST_BYTES = 1 << 28


class Row(NamedTuple):
    """A line of a table."""

    line: int  # its number in the file, from 1
    name: str  # of the image: a path with slashes, relative to the table unless absolute
    path: str  # where the image lies
    label: str
    split: str  # of SPLIT, in small letters; val if there is no such column


class Table(NamedTuple):
    """A table whose header was read."""

    columns: dict[str, int]  # "image", "label" and "split", where there are such columns -> position
    header: list[str]  # the cells of the first line
    lines: Iterator[tuple[int, list[str]]]  # those after the header that are not empty, with their numbers


class TableSource(ImageFiles):
    """Images listed in a CSV file, in the order of their names.

    The first line names the columns: one of :data:`IMAGE` for the path of the image, relative to the file, one of
    :data:`LABEL` for its class, and possibly one of :data:`SPLIT` for its split, named as the folders of a
    :class:`compactnets.data.folder.FolderSource`. Other columns are not read. Cells are separated by comma,
    semicolon or tab; the text is UTF-8 with or without a byte order mark, or UTF-16, as spreadsheets write it. Without
    a column for the split, the whole table is the split ``"val"``. The classes are the sorted labels of both splits.

    Args:
        path: the file.
        split: ``"train"`` or ``"val"``.
        spec: the source as the user named it.

    Raises:
        InputError: the file cannot be read, has no such columns, or a line that cannot be used; the message has its
            number.
        MissingSplitError: no such split.
    """

    kind = "csv"

    def __init__(self, path: Path, split: Split, spec: str) -> None:
        table = read_table(path)
        self.divided = "split" in table.columns
        found = choose_split(path, list(_rows(path, table)), split, spec, divided=self.divided)
        rows = sorted(checked(path, [row for row in found if row.split]), key=lambda row: compose(row.name))
        class_names = tuple(sorted({row.label for row in rows}))
        _compare(path, class_names, rows)
        rows, positions = [row for row in rows if row.split == split], {name: i for i, name in enumerate(class_names)}
        self.names, self.paths = [row.name for row in rows], [row.path for row in rows]
        left_out = [row.name for row in found if not row.split] if split == "val" else []
        super().__init__(spec, split, class_names, np.array([positions[row.label] for row in rows], dtype=np.int64))
        self.left_out = left_out

    def content(self) -> str:
        return digest_listed(self.names, self.paths)

    def name(self, index: int) -> str:
        return self.names[index]


def digest_listed(names: Sequence[str], paths: Sequence[str]) -> str:
    """Return a digest of the images of a table; of absolute paths only the names, so that the images may be moved."""
    return digest_files([os.path.basename(name) if os.path.isabs(name) else name for name in names], paths)


def read_table(path: Path, needed: Sequence[str] = ("image", "label")) -> Table:
    """Read the header of a table.

    Args:
        needed: columns that must be there.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes: too large for a table of labels")
        data = path.read_bytes()
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path} line {line} is not UTF-8: save the table as 'CSV UTF-8' in the spreadsheet") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    tried = DELIMITERS
    skipped = 0
    if text[:4].lower() == "sep=" and len(text) > 4:  # a line that Excel reads as the delimiter
        tried, skipped, text = text[4], 1, text.partition("\n")[2]
    headers: list[tuple[dict[str, int], list[str]]] = []
    for delimiter in tried:
        lines = _lines(path, text, delimiter, skipped)
        _, header = next(lines, (1, []))
        names = column_names(header)
        kinds = {"image": IMAGE, "label": LABEL, "split": SPLIT}
        columns = {
            kind: names.index(known)
            for kind, choices in kinds.items()
            if (known := next((name for name in choices if name in names), None)) is not None
        }
        if all(kind in columns for kind in needed):
            return Table(columns, header, lines)
        headers.append((columns, header))
    columns, header = max(headers, key=lambda found: (len(found[0]), len(found[1])))
    wanted = [f"{kinds[kind][0]} ({', '.join(kinds[kind][1:5])}, …)" for kind in needed]
    image = next((cell for cell in header if cell.lower().endswith(ENDINGS)), None)
    told = f"the line of an image, {quoted(image)}" if image else quoted(", ".join(header)) if header else "nothing"
    raise InputError(
        f"{path} line {skipped + 1}: expected the names of the columns, {' and '.join(wanted)}, found {told}"
    )


def _lines(path: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not empty, each with the number of its first line in the file."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1 + skipped
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path} line {number}: {error}") from None
        if any(cells):
            yield number, cells


def _rows(path: Path, table: Table) -> Iterator[Row]:
    """Yield the lines of a table as rows; labels and images are not checked yet."""
    for row, cells in bare_rows(path, table):
        yield row._replace(label=compose(" ".join(cells[table.columns["label"]].split())))


def bare_rows(path: Path, table: Table) -> Iterator[tuple[Row, list[str]]]:
    """Yield the lines of a table as rows without labels, each with its cells, as many as the header's.

    Raises:
        InputError: a line with too many cells, or without an image.
    """
    columns, width = table.columns, len(table.header)
    for line, cells in table.lines:
        if any(cells[width:]):
            raise InputError(f"{path} line {line}: {len(cells)} cells, the header has {width}")
        cells += [""] * (width - len(cells))
        if not (image := cells[columns["image"]]):
            raise InputError(f"{path} line {line}: no image")
        name, place = locate_image(image, path.parent)
        split = cells[columns["split"]].lower() if "split" in columns else "val"
        yield Row(line, name, place, "", split), cells


def choose_split(path: Path, found: list[Row], split: Split, spec: str, *, divided: bool) -> list[Row]:
    """Return the rows with ``train``, ``val`` or, where another split is evaluated on, an empty text as the split.

    Raises:
        InputError: no row, or an unknown name of a split.
        MissingSplitError: no such split.
    """
    if not found:
        raise InputError(f"{path} names no image below its header")
    names = ", ".join(sorted({row.split for row in found}))
    if divided:
        found = _with_splits(path, found)
    if split not in {row.split for row in found}:
        told = f"found {names}" if divided else "found none; divide the images with --split 0.8"
        raise MissingSplitError(f"{spec} has no {split} split: expected {split} in a column {SPLIT[0]}, {told}")
    return found


def column_names(header: Sequence[str]) -> list[str]:
    """Return the names of columns as :data:`IMAGE` and the others spell them."""
    return ["_".join(cell.lower().replace("-", " ").split()) for cell in header]


def locate_image(image: str, folder: Path) -> tuple[str, str]:
    """Return an image's name and path; backslashes are slashes, unless a file has them in its name."""
    path = os.path.expanduser(image)
    if "\\" in path and not os.path.lexists(folder / path):
        path = path.replace("\\", "/")
    name = os.path.normpath(path).replace(os.sep, "/")
    return name, str(folder / path)


def _with_splits(path: Path, rows: Sequence[Row]) -> list[Row]:
    for row in rows:
        if row.split not in (*TRAIN_FOLDERS, *VAL_FOLDERS):
            raise InputError(
                f"{path} line {row.line}: the split is {quoted(row.split)}, expected {TRAIN_FOLDERS[0]} or one of "
                f"{', '.join(VAL_FOLDERS[:4])}"
            )
    present = {row.split for row in rows}
    splits = dict.fromkeys([name for name in VAL_FOLDERS if name in present][:1], "val")
    splits |= dict.fromkeys(TRAIN_FOLDERS, "train")
    return [row._replace(split=splits.get(row.split, "")) for row in rows]


def checked(path: Path, rows: Sequence[Row], *, unlabelled: bool = False) -> list[Row]:
    """Return the rows without repetitions.

    Args:
        unlabelled: whether an image may have no label.

    Raises:
        InputError: no label, no such image, or one with two labels or splits.
    """
    kept: dict[str, Row] = {}
    missing: list[Row] = []
    for row in rows:
        if not (row.label or unlabelled):
            raise InputError(f"{path} line {row.line}: {_plain(row.name)} has no label")
        first = kept.setdefault(os.path.normpath(row.path), row)
        for what in ("label", "split"):
            if (one := getattr(first, what)) != (other := getattr(row, what)):
                raise InputError(
                    f"{path} line {row.line}: the {what} of {_plain(row.name)} is {quoted(other)}, and {quoted(one)} "
                    f"in line {first.line}"
                )
        if first is row and not os.path.isfile(row.path):
            missing.append(row)
    if missing:
        others = f"; nor are those of {len(missing) - 1:,} other lines" if len(missing) > 1 else ""
        told = " (paths are relative to the table)" if not os.path.isabs(missing[0].name) else ""
        raise InputError(f"{path} line {missing[0].line}: no image at {_plain(missing[0].path)}{told}{others}")
    if len(kept) < len(rows):
        warnings.warn(
            f"{printable(path)}: lines that repeat another are read once: {len(rows) - len(kept):,}", stacklevel=2
        )
    return list(kept.values())


def _plain(text: str) -> str:
    """Return a path for a line of text."""
    return text if text.isprintable() else ascii(text)


def _compare(path: Path, class_names: Sequence[str], rows: Sequence[Row]) -> None:
    """Check that every class is trained on, if there are training images, and warn of names that are nearly equal."""
    trained = {row.label for row in rows if row.split == "train"}
    if trained and (new := [name for name in class_names if name not in trained]):
        line = min(row.line for row in rows if row.label == new[0])
        raise InputError(f"{path} line {line}: the class {quoted(new[0])} has no image to train on")
    warn_of_capitals(path, class_names)
    if joined := next((name for name in class_names if SEPARATORS.search(name)), None):
        warnings.warn(
            f"{printable(path)}: {quoted(joined)} is one class; for several labels an image, use the recipe multilabel",
            stacklevel=2,
        )


def warn_of_capitals(path: Path, class_names: Sequence[str]) -> None:
    """Warn of classes whose names differ in capitals alone."""
    folded: dict[str, str] = {}
    for name in class_names:
        if (other := folded.setdefault(name.casefold(), name)) != name:
            warnings.warn(
                f"{printable(path)}: {quoted(other)} and {quoted(name)} are two classes, with other capitals",
                stacklevel=2,
            )
