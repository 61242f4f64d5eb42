"""What libraries raise, as one line: what was being done, the cause, and the folder where a disk is full."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compactnets.errors import InputError, LimitError, reason

FULL = {errno.ENOSPC, errno.EDQUOT}
LONGEST = 300  # characters of a cause: some libraries print a whole graph into one line
MARGIN = 2**20  # bytes: with less than this to spare, a write that failed is likely to have met the end of the disk
_temporary: list[Path] = []  # folders of scratch_folder


@dataclass(frozen=True)
class Space:
    """What is written and where, to look for the disk that is full.

    What goes into a folder of :func:`scratch_folder` goes into the temporary folder, which no ``--output`` changes.

    Attributes:
        output: folder of the results; it need not be there yet.
        size: bytes that go into it at least.
        scratch: bytes that go into the temporary folder at least.
    """

    output: Path
    size: int
    scratch: int = 0

    def check(self) -> None:
        """Raise where the space cannot be enough.

        Raises:
            InputError: the folder, what it takes and what is free.
        """
        for folder, size, name, advice in self._places():
            if (free := _free(folder)) is not None and free < size:
                raise InputError(
                    f"no space left in {name}: at least {_megabytes(size)} are needed and {_megabytes(free)} free; "
                    f"{advice}"
                )

    def full(self, *, certain: bool) -> str | None:
        """Return a line about the folder that is full, after something failed; ``None`` if none seems to be.

        Args:
            certain: whether the system said that there is no space.
        """
        found = []
        for folder, size, name, advice in self._places():
            free = _free(folder)
            if free is not None and free < size / 2 + MARGIN:
                found.append((free, f"no space left in {name} ({_megabytes(free)} free): {advice}"))
        if found:
            return min(found)[1]
        if not certain:
            return None
        # where libraries may have written as well
        names = dict.fromkeys(
            [*(name for _, _, name, _ in self._places()), f"the temporary folder {_temporary_home()}"]
        )
        return f"no space left in {' or '.join(names)}"

    def why(self, error: OSError) -> str:
        """Return in one line why a write of our own failed: what is full, or the system's words."""
        if not _says_full(error):
            return reason(error)
        _, _, name, advice = self._places()[0]
        return self.full(certain=False) or f"{reason(error)} in {name}: {advice}"

    def _places(self) -> list[tuple[Path, int, str, str]]:
        places, temporary = [], any(self.output.is_relative_to(folder) for folder in _temporary)
        if not temporary:
            places.append((self.output, self.size, str(self.output), "make room, or choose another --output"))
        if temporary or self.scratch:
            home, size = _temporary_home(), self.scratch + (self.size if temporary else 0)
            places.append((home, size, f"the temporary folder {home}", "make room, or let TMPDIR name another"))
        return places


def _temporary_home() -> Path:
    """Return the folder for what is needed for a while only.

    Raises:
        InputError: none can be written, as where the whole system is read-only.
    """
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise InputError(f"{reason(error)}: let TMPDIR name a folder that can be written") from None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder in the temporary one, which goes when the block ends.

    Raises:
        InputError: it cannot be made.
    """
    home = _temporary_home()
    try:
        made = tempfile.TemporaryDirectory()
    except OSError as error:
        raise InputError(
            f"cannot write to the temporary folder {home}: {reason(error)}; let TMPDIR name another"
        ) from None
    with made:
        folder = Path(made.name)
        _temporary.append(folder)
        try:
            yield folder
        finally:
            _temporary.remove(folder)


@contextmanager
def one_line(what: str, space: Space | None = None) -> Iterator[None]:
    """Raise whatever a library raises in the block as one line, ``WHAT: CAUSE``.

    Our own errors, Ctrl-C and signals pass as they are. Some libraries raise what is no ``Exception`` (a panic in
    Rust), which counts as well.

    Args:
        what: such as ``"muffnet_x0_5 cannot be exported to onnx"``.
        space: what is written, to tell a full disk from a network that cannot be expressed.

    Raises:
        InputError: what, and the cause.
    """
    try:
        yield
    except (InputError, LimitError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        own = next((each for each in _chain(error) if isinstance(each, InputError | LimitError)), None)
        if own is not None:  # inside a library's
            raise type(own)(str(own)) from error
        certain = any(map(_says_full, _chain(error)))
        text = cause(error)
        # a write that fails on a full disk is an OSError in Python, and in C++ a RuntimeError without a word of it
        if space is not None and (certain or type(error) in (RuntimeError, OSError)):
            full = space.full(certain=certain)
            text = full if certain and full else f"{text}; {full}" if full else text
        raise InputError(f"{what}: {text}") from error


def _says_full(error: BaseException) -> bool:
    """Whether the system said that there is no space, perhaps of the files of a whole folder that was copied."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        reasons = [str(file[-1]) for file in error.args[0]]
        return any(reason.startswith(f"[Errno {number}]") for reason in reasons for number in FULL)
    return isinstance(error, OSError) and error.errno in FULL


def cause(error: BaseException) -> str:
    """Return in one line what went wrong at the bottom: the kind of the first exception, and the first of its words."""
    first = _chain(error)[-1]
    if isinstance(first, MemoryError) or "can't allocate memory" in str(first):
        return "not enough memory"
    text = reason(first)
    if isinstance(first, OSError):
        return f"{text} ({first.filename})" if first.filename else text
    text = text if len(text) <= LONGEST else text[:LONGEST].rstrip() + " …"
    name = type(first).__name__
    return text if text == name else f"{name}: {text}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and those that it says it comes from, itself first."""
    chain = [error]
    while (before := chain[-1].__cause__) is not None and before not in chain:
        chain.append(before)
    return chain


def _free(folder: Path) -> int | None:
    """Return the bytes that are free where a folder is, or will be; ``None`` if the system does not say."""
    folder = Path(os.path.realpath(folder))
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
