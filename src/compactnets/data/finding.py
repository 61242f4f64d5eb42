"""Find the images and videos that names stand for: files, folders, patterns and lists, one after the other.

A million files are found as they are needed. What is held at once are the names of the files in one folder, and an
identity of each folder seen.
"""

from __future__ import annotations

import codecs
import csv
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from compactnets.console import say
from compactnets.data.base import shorten
from compactnets.data.inputs import Picture
from compactnets.data.listing import (
    SYSTEM_FOLDERS,
    above,
    compose,
    identity,
    is_broken_link,
    is_image,
    is_passed_over,
    scan,
)
from compactnets.data.table import DELIMITERS, IMAGE, column_names, locate_image
from compactnets.data.video import is_video
from compactnets.errors import InputError
from compactnets.values import shorten as quoted

LIST = "@"  # before the name of a list of files
TABLES = (".csv", ".tsv")
SHOWN = 3  # files left out that a note names


def find_files(named: Iterable[str | os.PathLike[str]]) -> list[str | Picture]:
    """Return what :func:`stream_files` yields."""
    return list(stream_files(named))


def stream_files(named: Iterable[str | os.PathLike[str]]) -> Iterator[str | Picture]:
    """Expand the given names, in order, into paths, or pictures with an error if nothing matches.

    A folder stands for all images and videos in and below it, by name, those of a folder before those below it; a note
    on standard error counts the other files. A pattern (``*``, ``?``, ``[...]``, ``**`` for folders of any depth)
    stands for its sorted matches, as in the shell. ``@FILE`` stands for the files of a list: a CSV or TSV file with one
    of :data:`compactnets.data.table.IMAGE` among its columns, or a text file with a path in each line; paths are
    relative to the list. An existing file of a literal name takes precedence.
    """
    for each in named:
        name = os.path.expanduser(os.fspath(each))
        if os.path.lexists(name):
            yield from _files_in(name)
        elif name.startswith(LIST):
            yield from _listed(os.path.expanduser(name.removeprefix(LIST)))
        elif glob.has_magic(name):
            matches = sorted(glob.iglob(name, recursive=True), key=compose)
            for match in matches:
                yield from _files_in(match)
            if not matches:
                yield Picture(name, error=f"{name} matches no file")
        else:
            yield name


def _files_in(name: str) -> Iterator[str | Picture]:
    if not os.path.isdir(name):
        yield name
        return
    found, others, shown = False, 0, []
    for path, usable in _walk(name):
        if isinstance(path, Picture) or usable:
            found = True
            yield path
        else:
            others += 1
            shown += [path] if others <= SHOWN else []
    if others:
        more = f" and {others - SHOWN:,} more" if others > SHOWN else ""
        say(f"note: {name}: files left out, neither images nor videos: {others:,}, {shorten(shown)}{more}")
    if not found:
        yield Picture(name, error=f"{name} holds no image and no video")


def _walk(folder: str) -> Iterator[tuple[str | Picture, bool]]:
    """Yield the paths in and below a folder, with whether each is an image or a video; hidden files are left out.

    Links to folders are followed, each folder once, as in :func:`compactnets.data.listing.list_images`.
    """
    seen = {identity(place) for place in (*above(Path(folder)), Path(folder))}
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        names: list[str] = []
        left_out: list[str] = []
        folders: list[tuple[bool, str, str]] = []
        try:
            for entry in scan(place):
                if entry.is_dir():
                    folders.append((entry.is_symlink(), compose(entry.name), entry.name))
                elif (is_image(entry.name) or is_video(entry.name)) and (entry.is_file() or is_broken_link(entry)):
                    names.append(entry.name)  # reading it will report a broken link
                elif not is_passed_over(entry.name):
                    left_out.append(entry.name)
        except InputError as error:
            yield Picture(place, error=str(error)), False
            continue
        names.sort(key=compose)
        yield from ((os.path.join(place, name), True) for name in names)
        yield from ((os.path.join(place, name), False) for name in sorted(left_out))
        below: list[str] = []
        for _, _, name in sorted(folders):  # links last: a folder is found at its own place first
            path = os.path.join(place, name)
            if name.lower() in SYSTEM_FOLDERS or identity(path) in seen:
                yield path + "/", False
            elif not name.startswith("."):
                seen.add(identity(path))
                below.append(path)
        waiting += sorted(below, key=compose, reverse=True)


def _listed(path: str) -> Iterator[str | Picture]:
    """Yield the files of a list; what is wrong with the list is the error of a picture, and ends it."""
    folder, table = Path(path).parent, path.lower().endswith(TABLES)
    found = False
    try:
        with _open(path) as file:
            for image in _cells(file, path) if table else (line.strip() for line in file):
                if image:
                    found = True
                    yield locate_image(image, folder)[1]
    except UnicodeDecodeError:
        yield Picture(path, error=f"{path} is not UTF-8: save it as UTF-8")
    except OSError as error:
        yield Picture(path, error=f"the list {path} cannot be read: {error.strerror or error}")
    except (csv.Error, InputError) as error:
        yield Picture(path, error=f"{path}: {error}")
    else:
        if not found:
            yield Picture(path, error=f"{path} lists no file")


def _open(path: str) -> IO[str]:
    """Open a list: UTF-8, or UTF-16 as spreadsheets write it; names that are not UTF-8 are kept as they are."""
    with open(path, "rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if wide:
        return open(path, encoding="utf-16", newline="")
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _cells(file: IO[str], path: str) -> Iterator[str]:
    """Yield the cells of a table's column of images.

    Raises:
        InputError: there is no such column, or a line has no cell in it.
        csv.Error: no CSV.
    """
    header = file.readline()
    if header[:4].lower() == "sep=":  # a line that Excel reads as the delimiter
        header = file.readline()
    for delimiter in DELIMITERS:
        names = column_names(next(csv.reader([header], delimiter=delimiter), []))
        column = next((names.index(known) for known in IMAGE if known in names), None)
        if column is not None:
            break
    else:
        raise InputError(
            f"expected a column {IMAGE[0]} ({', '.join(IMAGE[1:5])}, …) in the first line, found "
            f"{quoted(header.strip()) if header.strip() else 'nothing'}"
        )
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            if len(cells) <= column or not (image := cells[column].strip()):
                raise InputError(f"a line without an image, after {reader.line_num:,} lines below the header")
            yield image
