"""Frames of a video file, through PyAV (FFmpeg's libraries), which the extra ``video`` installs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from compactnets.errors import InputError, missing_extra, reason

# endings of files read as videos; others are read as images
ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".ogv", ".wmv", ".asf", ".flv"),
)
# FFmpeg's names for these. It would also open playlists, whatever the file name, and follow them to other hosts.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,ogg,asf,flv"
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}


class VideoFrame(NamedTuple):
    """One frame."""

    number: int  # from 0
    seconds: float | None  # from the start, if the file states it
    image: Image.Image  # RGB, upright


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a video by its ending; hidden files are not."""
    name = os.path.basename(path)
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def require_video() -> None:
    """Check that videos can be read here.

    Raises:
        InputError: PyAV is not installed.
    """
    if importlib.util.find_spec("av") is None:
        raise missing_extra("av", "video", "reading a video")


def read_frames(path: str | os.PathLike[str], every: int = 1) -> Iterator[VideoFrame]:
    """Yield frames 0, ``every``, 2 ``every``, … of the first video stream, rotated as the file states.

    Raises:
        InputError: PyAV is not installed; the file is missing, not a video or damaged (after the frames before the
            damage). The message names the path.
    """
    require_video()
    import av.error
    import av.logging
    from av import open as open_container

    av.logging.set_level(None)  # silence the decoders; errors are raised
    number = -1
    try:
        with open_container(os.fspath(path), options=OPTIONS) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no video stream: it is an audio recording")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    image = frame.to_image()
                    if turn := round(frame.rotation) % 360:  # recorded by a phone held upright; counter-clockwise
                        image = image.rotate(turn, expand=True)
                    yield VideoFrame(number, None if frame.time is None else float(frame.time), image)
            stated = stream.frames  # 0 if the file does not state it
    except FileNotFoundError:
        raise InputError(f"no video at {path}") from None
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        after = f" after frame {number}" if number >= 0 else ""
        what = error.strerror if isinstance(error, av.error.FFmpegError) else reason(error)
        raise InputError(f"{path} cannot be read as a video{after}: {what}") from None
    if number < 0:
        raise InputError(f"{path} has no frame that can be read")
    if stated - (number + 1) > max(2, stated // 50):  # some containers count a frame or two that are never shown
        raise InputError(f"{path} is truncated: {number + 1} of the {stated} announced frames are there")
