"""Report library errors in one line: the task, the cause, and the folder if a disk is full."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compactnets.errors import InputError, LimitError, reason

FULL = {errno.ENOSPC, errno.EDQUOT}
LONGEST = 300  # characters of a cause: some libraries print a whole graph in one line
MARGIN = 2**20  # bytes: with less than this free, a failed write probably hit a full disk
_temporary: list[Path] = []  # folders of scratch_folder


@dataclass(frozen=True)
class Space:
    """Expected disk usage, to find out which disk is full.

    Folders of :func:`scratch_folder` are in the temporary folder, which ``--output`` does not affect.

    Attributes:
        output: folder of the results; need not exist yet.
        size: smallest number of bytes written there.
        scratch: smallest number of bytes written to the temporary folder.
    """

    output: Path
    size: int
    scratch: int = 0

    def check(self) -> None:
        """Raise if the free space cannot suffice.

        Raises:
            InputError: the folder, the bytes needed and the bytes free.
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
            certain: whether the system reported that there is no space.
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
        # libraries may have written there as well
        names = dict.fromkeys(
            [*(name for _, _, name, _ in self._places()), f"the temporary folder {_temporary_home()}"]
        )
        return f"no space left in {' or '.join(names)}"

    def why(self, error: OSError) -> str:
        """Return in one line why our own write failed: the full folder, or the system's message."""
        if not _says_full(error):
            return reason(error)
        _, _, name, advice = self._places()[0]
        return self.full(certain=False) or f"{reason(error)} in {name}: {advice}"

    def _places(self) -> list[tuple[Path, int, str, str]]:
        places, temporary = [], any(self.output.is_relative_to(folder) for folder in _temporary)
        if not temporary:
            places.append((self.output, self.size, str(self.output), "free some space, or choose another --output"))
        if temporary or self.scratch:
            home, size = _temporary_home(), self.scratch + (self.size if temporary else 0)
            places.append(
                (home, size, f"the temporary folder {home}", "free some space, or set TMPDIR to another folder")
            )
        return places


def _temporary_home() -> Path:
    """Return the folder for temporary files.

    Raises:
        InputError: none is writable, as on a read-only system.
    """
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise InputError(f"{reason(error)}: set TMPDIR to a writable folder") from None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder that is removed at the end of the block.

    Raises:
        InputError: it cannot be created.
    """
    home = _temporary_home()
    try:
        made = tempfile.TemporaryDirectory()
    except OSError as error:
        raise InputError(
            f"cannot write to the temporary folder {home}: {reason(error)}; set TMPDIR to another folder"
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
    """Re-raise any library error in the block as one line, ``WHAT: CAUSE``.

    Our own errors, Ctrl-C and signals pass unchanged. Errors that are not an ``Exception`` (a panic in Rust) are
    included.

    Args:
        what: such as ``"muffnet_x0_5 cannot be exported to onnx"``.
        space: the expected disk usage, to tell a full disk from an unsupported network.

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
        # a write to a full disk raises OSError in Python, but in C++ a RuntimeError that does not mention it
        if space is not None and (certain or type(error) in (RuntimeError, OSError)):
            full = space.full(certain=certain)
            text = full if certain and full else f"{text}; {full}" if full else text
        raise InputError(f"{what}: {text}") from error


def take_all(*actions: Callable[[], object] | None) -> None:
    """Take every action that is given, whatever became of those before it, and report all failures in one line.

    Raises:
        InputError: what the actions raised.
    """
    failed = []
    for action in filter(None, actions):
        try:
            action()
        except InputError as error:
            failed.append(str(error))
    if failed:
        raise InputError("; ".join(failed))


def _says_full(error: BaseException) -> bool:
    """Whether the system reported that there is no space, perhaps for one of many copied files."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        reasons = [str(file[-1]) for file in error.args[0]]
        return any(reason.startswith(f"[Errno {number}]") for reason in reasons for number in FULL)
    return isinstance(error, OSError) and error.errno in FULL


def cause(error: BaseException) -> str:
    """Return the root cause in one line: type and first line of the first exception."""
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
    """Return an exception and its causes, itself first."""
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
