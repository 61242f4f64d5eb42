"""The inputs of a prediction, one picture at a time; :mod:`compactnets.data.finding` finds the files.

An unreadable picture is yielded with its error; it does not affect the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from compactnets.data.images import read_image
from compactnets.data.video import is_video, read_frames
from compactnets.errors import InputError
from compactnets.failures import one_line

Found = TypeVar("Found")


@dataclass(frozen=True)
class Picture:
    """One image or video frame, or the error.

    Attributes:
        path: of the file, as given or found.
        image: upright, of any mode; ``None`` if it cannot be read.
        frame: number of the frame, from 0; ``None`` for an image.
        seconds: time from the start of the video, if known.
        error: why there is no image, with the file's name.
    """

    path: str
    image: Image.Image | None = None
    frame: int | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """The heading of a result: the path; for a frame, with its number and time."""
        if self.frame is None:
            return self.path
        time = "" if self.seconds is None else f", {self.seconds:.2f} s"
        return f"{self.path} (frame {self.frame}{time})"

    @property
    def facts(self) -> dict[str, Any]:
        """What the results of all tasks say of a picture: ``image``, ``frame``, ``seconds``, ``error`` and ``name``."""
        return {
            "image": self.path,
            "frame": self.frame,
            "seconds": self.seconds,
            "error": self.error,
            "name": self.name,
        }

    def failed(self, error: object) -> Picture:
        """Return the picture without its image, but with an error that names the file."""
        text = str(error)
        return replace(self, image=None, error=text if self.path in text else f"{self.name}: {text}")


def read_pictures(files: Iterable[str | Picture], every: int = 1) -> Iterator[Picture]:
    """Read the files from :func:`compactnets.data.finding.find_files`, one picture at a time.

    Args:
        files: of images and videos.
        every: use every n-th frame of a video.
    """
    for file in files:
        if isinstance(file, Picture):
            yield file
        elif is_video(file):
            yield from _frames(file, every)
        else:
            try:
                yield Picture(file, read_image(file))
            except InputError as error:
                yield Picture(file, error=str(error))


def run_on(
    files: Iterable[str | Picture],
    every: int,
    run: Callable[[Image.Image], Found],
    fatal: type[InputError] | tuple[()] = (),
) -> Iterator[tuple[Picture, Found | None]]:
    """Yield each picture of :func:`read_pictures` with the result of ``run``; without one, its ``error`` says why.

    Args:
        run: takes an image, upright, of any mode.
        fatal: an error of ``run`` that no other picture would be without.

    Raises:
        InputError: of the type ``fatal``, with the picture's name.
    """
    for picture in read_pictures(files, every):
        found = None
        if picture.image is not None:
            try:
                with one_line(picture.name):
                    found = run(picture.image)
            except fatal as error:
                raise type(error)(f"{picture.name}: {error}") from None
            except InputError as error:
                picture = picture.failed(error)
        yield picture, found


def _frames(path: str, every: int) -> Iterator[Picture]:
    frames = read_frames(path, every)
    while True:
        try:
            frame = next(frames, None)
        except InputError as error:
            yield Picture(path, error=str(error))
            return
        if frame is None:
            return
        yield Picture(path, frame.image, frame.number, frame.seconds)


class OutputNames:
    """Names of the files that predictions write: equal ones get a number, and input images are never overwritten.

    Args:
        folder: of the files; ``None``: none are written.
        files: the inputs.
        endings: of the files of a picture.
    """

    def __init__(self, folder: Path | None, files: Iterable[str | Picture], endings: Sequence[str]) -> None:
        self.folder, self.endings = folder, endings
        self.taken: set[str] = set()
        self.inputs = {os.path.realpath(file) for file in files if isinstance(file, str)}

    def take(self, picture: Picture) -> Path | None:
        """Return the path of a picture's files, without their endings."""
        if self.folder is None:
            return None
        stem = Path(picture.path).stem
        stem = stem if picture.frame is None else f"{stem}-{picture.frame:06d}"
        name, number = stem, 1
        while name.casefold() in self.taken or self._is_input(name):
            number += 1
            name = f"{stem}-{number}"
        self.taken.add(name.casefold())
        return self.folder / name

    def _is_input(self, name: str) -> bool:
        assert self.folder is not None
        return any(os.path.realpath(self.folder / f"{name}{ending}") in self.inputs for ending in self.endings)
