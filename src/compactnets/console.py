"""Output for people: results on standard output, progress and notes on standard error, tables that are never cut.

Text is printed literally: the user's names are neither markup (``[v2]``) nor emoji (``:m:``). Characters that a
terminal cannot show, or must not obey, are escaped. Nothing else of the package imports rich (tests/test_console.py).
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Generic, TypeVar, cast

from rich import box
from rich.console import Console, ConsoleDimensions, ConsoleOptions, Group, RenderResult
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from compactnets.files import json_text, refusals

__all__ = [
    "Group",
    "PlainConsole",
    "Table",
    "Tracker",
    "print_json",
    "say",
    "stage",
    "stages",
    "stderr",
    "stdout",
    "visible",
]

Item = TypeVar("Item")

PLAIN_INTERVAL = 15.0  # seconds between two plain lines
PIPE_WIDTH = 10_000  # pipes and files have no width: each table row is one line
LEAST_TEXT = 16  # narrowest column that text is folded to; figures are never folded
# control characters, changes of writing direction, and surrogates for undecodable bytes in names
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, encoding: str = "utf-8") -> str:
    """Return ``text`` with characters that ``encoding`` lacks, or that control the terminal, escaped as in Python."""
    text = UNSAFE.sub(lambda found: repr(found[0])[1:-1], text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


class PlainConsole(Console):
    """A console that prints text literally.

    A line of text is never wrapped or cut. In a pipe, tables are as wide as they need; ``COLUMNS`` overrides that.

    Args:
        stderr: print to standard error instead of standard output.
        file: where to print instead.
        width: columns of it.
    """

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        height = None if width is None else 25
        super().__init__(
            stderr=stderr, file=file, width=width, height=height, markup=False, emoji=False, highlight=False
        )

    @property  # type: ignore[misc]
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        if self._width is not None or self.is_terminal or os.environ.get("COLUMNS", "").isdigit():
            return super().size
        return ConsoleDimensions(PIPE_WIDTH, 25)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print like rich, but let plain text run past the edge."""
        if all(isinstance(each, str) for each in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as rich text, taken literally, with unprintable characters escaped."""
        options |= {"markup": False, "emoji": False, "highlight": False, "highlighter": None}
        return super().render_str(visible(text, self.encoding), **options)


class Table(RichTable):
    """A table that is never cut off, however narrow the terminal.

    Right-aligned columns hold figures and are never broken. If the folded text does not fit beside them, each row
    becomes lines of ``heading: cell``.
    """

    def __init__(self, *headings: str, title: str | None = None, lines: bool = False, header: bool = True) -> None:
        super().__init__(
            box=box.SIMPLE_HEAD if lines else None,
            show_edge=False,
            pad_edge=False,
            show_header=header,
        )
        self.heading = title  # not rich's title, which is folded to the width of the table
        for heading in headings:
            self.add_text(heading)

    def add_text(self, *headings: str) -> None:
        """Add columns of text, which may be folded."""
        for heading in headings:
            self.add_column(heading, overflow="fold")

    def add_figures(self, *headings: str) -> None:
        """Add columns of figures, which are kept whole."""
        for heading in headings:
            self.add_column(heading, justify="right", no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.heading:
            yield console.render_str(self.heading, style="italic")
        wide = options.update_width(PIPE_WIDTH)
        needed = [self._measure_column(console, wide, column).maximum for column in self.columns]
        least = [
            width if column.no_wrap else min(width, LEAST_TEXT)
            for width, column in zip(needed, self.columns, strict=True)
        ]
        if sum(least) + self._extra_width <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        headings = [str(column.header) for column in self.columns]
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            for heading, cell in zip(headings, cells, strict=True):
                if cell:
                    yield f"{heading}: {cell}" if heading else cell
            yield ""


class _Lasting:
    """A stream that ignores write errors: a closed terminal, a pipe without a reader, a log on a full disk.

    Failing to report progress must not end a run.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Notes(PlainConsole):
    """Standard error, as long as it lasts."""

    @property
    def file(self) -> IO[str]:
        """Where it prints."""
        return cast(IO[str], _Lasting(super().file))

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new


stdout = PlainConsole()  # results
stderr = _Notes(stderr=True)  # progress, notes and errors


def say(message: str) -> None:
    """Print one line of progress."""
    stderr.print(message)


def print_json(value: Any) -> None:
    """Print one JSON document on standard output; characters that its encoding lacks get JSON escapes.

    Raises:
        InputError: standard output cannot be written to.
    """
    text = json_text(value, indent=2, ensure_ascii=False)
    try:
        text.encode(stdout.encoding)
    except UnicodeEncodeError:
        text = json_text(value, indent=2)
    with refusals("to standard output"):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class _Stages:
    """The stages of one piece of work."""

    def __init__(self, what: str) -> None:
        self.what = what
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._progress: Progress | None = None
        if stderr.is_terminal:
            self._progress = Progress(
                *columns, console=stderr, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._progress.add_task(visible(what, stderr.encoding))

    def enter(self, text: str) -> None:
        if self._progress is None:
            say(f"{self.what}: {text}")
        else:
            description = visible(f"{self.what}: {text}", stderr.encoding)
            self._progress.update(self._progress.task_ids[0], description=description)

    def show(self, shown: bool) -> None:
        if self._progress is not None:
            self._progress.start() if shown else self._progress.stop()


_stages: _Stages | None = None


@contextmanager
def stages(what: str) -> Iterator[None]:
    """Show the stages of long work, named by :func:`stage`: ``muffnet_x0_5 to onnx: tracing``.

    On a terminal, a line with the elapsed time that disappears at the end; elsewhere a plain line per stage. Nested
    work reports its stages under the outer one.
    """
    global _stages
    if _stages is not None:
        yield
        return
    _stages = _Stages(what)
    try:
        _stages.show(True)
        yield
    finally:
        _stages.show(False)
        _stages = None


def stage(text: str) -> None:
    """Name the stage that begins now; does nothing outside :func:`stages`."""
    if _stages is not None:
        _stages.enter(text)


@contextmanager
def _alone() -> Iterator[None]:
    """Hide the line of :func:`stages`: a bar cannot be drawn beside it."""
    shown = _stages
    if shown is not None:
        shown.show(False)
    try:
        yield
    finally:
        if shown is not None and shown is _stages:
            shown.show(True)


class Tracker(Generic[Item]):
    """A progress bar with a text after it: ``for batch in tracker: tracker.note("loss 0.31")``.

    On a terminal, a bar that disappears at the end; elsewhere a plain line every 15 seconds, or every ``frequency``
    items. ``done`` of the ``total`` items were finished before.
    """

    def __init__(
        self, items: Iterable[Item], total: int, description: str, done: int = 0, frequency: int | None = None
    ) -> None:
        self.items, self.total, self.description, self.done = items, total, description, done
        self.frequency = frequency
        self.text = ""

    def note(self, text: str) -> None:
        """Set the text after the bar."""
        self.text = text

    def __iter__(self) -> Iterator[Item]:
        return self._bar() if stderr.is_terminal else self._lines()

    def _bar(self) -> Iterator[Item]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with _alone(), Progress(*columns, console=stderr, transient=True) as progress:
            description = visible(self.description, stderr.encoding)
            task = progress.add_task(description, total=self.total, completed=self.done, text="")
            for item in self.items:
                yield item
                progress.update(task, advance=1, text=visible(self.text, stderr.encoding))

    def _lines(self) -> Iterator[Item]:
        last = time.perf_counter()
        for done, item in enumerate(self.items, start=self.done + 1):
            yield item
            due = done % self.frequency == 0 if self.frequency else time.perf_counter() - last > PLAIN_INTERVAL
            if done < self.total and due:
                last = time.perf_counter()
                say(f"{self.description}: {done}/{self.total} {self.text}".rstrip())
