"""List the images of a folder, decide what to ignore, and check class names.

Two kinds of entries are ignored: hidden ones, and the folders of operating systems, archivers and network drives.
Everything else that is not read is listed, so it can be reported.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import features

from compactnets.errors import InputError

# The endings of the formats that compactnets.data.images decodes. "MPO" is how two-lens cameras write a JPEG.
ENDINGS: tuple[str, ...] = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    *((".avif", ".avifs") if features.check("avif") else ()),  # Pillow has it from version 11.3 on
)

# Lower case. Of unzipping a Mac's archive, of Synology's and QNAP's drives, of Windows and of Linux.
SYSTEM_FOLDERS = frozenset(
    {
        "__macosx",
        *("@eadir", "@tmp", "#recycle", "#snapshot"),
        *("@recycle", "@recently-snapshot", "@__thumb"),
        *("$recycle.bin", "recycler", "system volume information", "found.000"),
        *("lost+found", "__pycache__", "network trash folder", "temporary items"),
    }
)
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
SHOWN = 4  # endings listed in a line


def is_image(path: str) -> bool:
    """Whether a path is an image by its ending; hidden files are not."""
    name = os.path.basename(path)
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def is_passed_over(name: str) -> bool:
    """Whether a folder or file is hidden or belongs to the system, by its name."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS or name.lower() in SYSTEM_FILES


def compose(text: str) -> str:
    """Return a name in the composed form of Unicode (NFC): macOS writes "e" and an accent where others write "é".

    In a locale that is not UTF-8 (``LC_ALL=C``), file names are still read as UTF-8, which they nearly always are.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", _decoded(text))


def _decoded(name: str) -> str:
    """Decode a file name whose bytes Python kept because the locale lacks the characters."""
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        try:
            return os.fsencode(name).decode("utf-8")
        except UnicodeError:
            return name


def check_names(where: str, names: Iterable[str], what: str = "class") -> tuple[str, ...]:
    """Return class names in composed form (:func:`compose`).

    Args:
        where: the source or folder, for an error.
        what: the kind of thing that is named, for an error.

    Raises:
        InputError: a name that is not UTF-8, or two that differ only in how accents are encoded.
    """
    composed: dict[str, str] = {}
    result = []
    for name in names:
        try:
            _decoded(name).encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{printable(where)}: the name of a {what} is not UTF-8, '{printable(name)}': rename it, because a run "
                f"writes UTF-8"
            ) from None
        if composed.setdefault(compose(name), name) != name:
            raise InputError(
                f"{where}: two names of a {what} differ only in how accents are encoded (NFC and NFD): "
                f"{ascii(composed[compose(name)])} and {ascii(name)}; join them"
            )
        result.append(compose(name))
    return tuple(result)


def printable(path: str | os.PathLike[str]) -> str:
    """Return a path as printable UTF-8; undecodable bytes are escaped."""
    return _decoded(os.fspath(path)).encode(errors="backslashreplace").decode()


@dataclass
class Listing:
    """The contents of a folder and its sub-folders.

    Attributes:
        images: paths of the images, in the order of folders and names.
        left_out: paths of everything else, without hidden and system files; folders end in ``/``.
    """

    images: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def list_images(folder: Path) -> Listing:
    """Return the images in ``folder`` and its sub-folders; links to folders are followed, each folder once.

    Links to parent folders are skipped, and so are pipes, sockets and devices, which would never end.

    Raises:
        InputError: a folder that cannot be read.
    """
    seen = {identity(parent) for parent in above(folder)}
    listing = Listing()
    found: list[tuple[str, list[str]]] = []
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        seen.add(identity(place))
        images: list[str] = []
        found.append((place, images))
        for entry in entries_of(place):
            if entry.is_dir():
                if entry.name.lower() in SYSTEM_FOLDERS or identity(entry.path) in seen:
                    listing.left_out.append(entry.path + "/")
                elif not entry.name.startswith("."):
                    seen.add(identity(entry.path))
                    waiting.append(entry.path)
            elif is_image(entry.name) and (entry.is_file() or is_broken_link(entry)):
                images.append(entry.path)  # reading it will report a broken link
            elif not is_passed_over(entry.name):
                listing.left_out.append(entry.path)
    for _, images in sorted(found, key=lambda part: compose(part[0])):
        listing.images.extend(sorted(images, key=compose))
    listing.left_out.sort()
    return listing


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of the folders in ``folder``, without hidden and system ones and links to parents."""
    names = [entry.name for entry in entries_of(folder) if entry.is_dir() and not _is_no_class(entry, folder)]
    return tuple(sorted(names, key=compose))


def strays(folder: Path) -> list[str]:
    """Return the paths beside the class folders of ``folder`` that are not read; folders end in ``/``."""
    found = []
    for entry in entries_of(folder):
        if entry.is_dir():
            if not entry.name.startswith(".") and _is_no_class(entry, folder):
                found.append(entry.path + "/")
        elif not is_passed_over(entry.name):
            found.append(entry.path)
    return sorted(found)


def folders_called(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders in ``root`` with these names, in the order of the names, ignoring case.

    Empty if ``root`` cannot be read, such as ``lost+found``.
    """
    try:
        present = [entry.name for entry in entries_of(root) if entry.is_dir()]
    except InputError:
        return []
    return [root / found for name in names for found in sorted(present) if found.lower() == name]


def holds_images(folder: Path) -> bool:
    """Whether the folder itself contains images."""
    return any(is_image(entry.name) and entry.is_file() for entry in entries_of(folder))


def entries_of(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, links last.

    Raises:
        InputError: it cannot be read.
    """
    return sorted(scan(folder), key=lambda entry: (entry.is_symlink(), compose(entry.name)))


def scan(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder, in no order.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise InputError(f"{printable(folder)} cannot be read: {error.strerror or error}") from None


def summarize(paths: Sequence[str]) -> str:
    """Count the files and folders left out, by ending: ``"3 (.heic 2, @eaDir/ 1)"``."""
    kinds = Counter(_kind(path) for path in paths)
    named = [f"{kind} {count:,}" for kind, count in kinds.most_common(SHOWN)]
    rest = sum(kinds.values()) - sum(count for _, count in kinds.most_common(SHOWN))
    return f"{len(paths):,} ({', '.join([*named, *([f'others {rest:,}'] if rest else [])])})"


def above(folder: Path) -> list[Path]:
    """Return the parents of ``folder``, along the given path and along the resolved one."""
    return [*folder.absolute().parents, *folder.resolve().parents]


def _kind(path: str) -> str:
    name = printable(os.path.basename(path.rstrip("/")))
    if path.endswith("/"):
        return f"{name}/"
    return os.path.splitext(name)[1].lower() or "without ending"


def _is_no_class(entry: os.DirEntry[str], folder: Path) -> bool:
    if is_passed_over(entry.name):
        return True
    return entry.is_symlink() and identity(entry.path) in {identity(place) for place in (folder, *above(folder))}


def is_broken_link(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a link to nothing."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def identity(path: str | Path) -> tuple[int, int]:
    """Return an identity that is the same along all paths to a folder."""
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else (-1, -1)
