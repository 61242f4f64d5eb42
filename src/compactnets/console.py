"""What a person sees: progress on standard error, bars on a terminal and plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")

stdout = Console()  # results
stderr = Console(stderr=True)  # progress, notes and errors

PLAIN_INTERVAL = 15.0  # seconds between two plain lines


def say(message: str) -> None:
    """Print one line of progress."""
    stderr.print(message, highlight=False, markup=False, soft_wrap=True)


class Tracker(Generic[Item]):
    """A progress bar with a text behind it: ``for batch in tracker: tracker.note("loss 0.31")``.

    On a terminal a bar that vanishes when it is done; elsewhere a plain line every 15 seconds, or every ``frequency``
    items. ``done`` of the ``total`` items were there before.
    """

    def __init__(
        self, items: Iterable[Item], total: int, description: str, done: int = 0, frequency: int | None = None
    ) -> None:
        self.items, self.total, self.description, self.done = items, total, description, done
        self.frequency = frequency
        self.text = ""

    def note(self, text: str) -> None:
        """Set the text behind the bar."""
        self.text = text

    def __iter__(self) -> Iterator[Item]:
        return self._bar() if stderr.is_terminal else self._lines()

    def _bar(self) -> Iterator[Item]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=stderr, transient=True) as progress:
            task = progress.add_task(self.description, total=self.total, completed=self.done, text="")
            for item in self.items:
                yield item
                progress.update(task, advance=1, text=self.text)

    def _lines(self) -> Iterator[Item]:
        last = time.perf_counter()
        for done, item in enumerate(self.items, start=self.done + 1):
            yield item
            due = done % self.frequency == 0 if self.frequency else time.perf_counter() - last > PLAIN_INTERVAL
            if done < self.total and due:
                last = time.perf_counter()
                say(f"{self.description}: {done}/{self.total} {self.text}".rstrip())
