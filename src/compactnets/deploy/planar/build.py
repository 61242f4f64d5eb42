"""Compile and run a generated network."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from compactnets.errors import InputError
from compactnets.failures import scratch_folder

FLAGS = ("-std=gnu99", "-O3", "-fPIC", "-shared")
NATIVE = "-march=native"
TIMEOUT = 600
FULL = 2**16  # a disk with fewer free bytes counts as full


def find_compiler() -> list[str]:
    """Return the command of a C compiler: ``$CC``, ``cc``, or the one in the ``ziglang`` wheel.

    Raises:
        InputError: no compiler was found.
    """
    if chosen := shlex.split(os.environ.get("CC", "")):
        if shutil.which(chosen[0]) is None:
            raise InputError(f"$CC is {os.environ['CC']!r}, but {chosen[0]} is not on the PATH")
        return chosen
    if found := shutil.which("cc"):
        return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise InputError(
        "format c needs a C compiler to check and run its code, found neither $CC nor cc: install one with "
        "python -m pip install 'compactnets[c]'"
    )


def compile_library(source: Path, output: Path, flags: Sequence[str] = ()) -> None:
    """Compile ``model.c`` to a shared library for this machine; ``$CFLAGS`` is appended to the options.

    Raises:
        InputError: no compiler, or it fails; the message has its first error.
    """
    compiler, errors = find_compiler(), ""
    flags = [*flags, *shlex.split(os.environ.get("CFLAGS", ""))]
    for native in ([NATIVE], []):  # not every compiler supports the option on every machine
        command = [*compiler, *FLAGS, *native, *flags, str(source), "-lm", "-o", str(output)]
        try:
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{compiler[0]} took longer than {TIMEOUT} seconds for {source.name}") from None
        except OSError as error:
            raise InputError(f"{compiler[0]} cannot be started: {error.strerror}") from None
        if done.returncode == 0:
            return
        if shutil.disk_usage(output.parent).free < FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output.parent))
        errors = errors or done.stderr
    lines = [line for line in errors.splitlines() if "error" in line] or errors.splitlines() or ["no message"]
    raise InputError(f"{' '.join(compiler)} cannot compile {source.name}: {lines[0].strip()}")


class Library:
    """A compiled and loaded network: images in, logits out."""

    def __init__(
        self, library: ctypes.CDLL, name: str, shape: tuple[int, int, int], outputs: int, weights: bytes
    ) -> None:
        self.shape, self.outputs = shape, outputs
        self._run = library[f"{name}_run"]
        self._run_pixels = library[f"{name}_run_pixels"]
        self._run.restype = self._run_pixels.restype = None
        self._run.argtypes = self._run_pixels.argtypes = [ctypes.c_void_p] * 4
        bytes_ = library[f"{name}_arena_bytes"]
        bytes_.restype = ctypes.c_size_t
        self._arena_bytes = int(bytes_())
        self._weights = aligned(len(weights))
        self._weights[:] = np.frombuffer(weights, np.uint8)
        self._arenas: list[np.ndarray] = []  # not in use

    @property
    def arena_bytes(self) -> int:
        """Bytes of working memory per run."""
        return self._arena_bytes

    def run(self, images: np.ndarray, threads: int = 1) -> np.ndarray:
        """Run on (N, C, H, W) float32, or (N, H, W, C) uint8; return (N, outputs).

        Args:
            images: images of the network's size.
            threads: number of images computed in parallel, each in a separate arena.

        Raises:
            InputError: images of another size.
        """
        pixels = images.dtype == np.uint8
        expected = (*self.shape[1:], self.shape[0]) if pixels else self.shape
        if images.shape[1:] != expected:
            raise InputError(f"the network takes images of {expected}, found {images.shape[1:]}")
        images = np.ascontiguousarray(images, np.uint8 if pixels else np.float32)
        rows = np.empty((len(images), self.outputs), np.float32)
        function = self._run_pixels if pixels else self._run

        def run(indices: range) -> None:
            try:  # concurrent calls use different arenas
                arena = self._arenas.pop()
            except IndexError:
                arena = aligned(self._arena_bytes)
            for index in indices:
                image, row = images[index], rows[index]
                function(self._weights.ctypes.data, arena.ctypes.data, image.ctypes.data, row.ctypes.data)
            self._arenas.append(arena)

        threads = min(threads, len(images))
        if threads <= 1:
            run(range(len(images)))
            return rows
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, (range(start, len(images), threads) for start in range(threads))))
        return rows


def aligned(size: int) -> np.ndarray:
    """Return memory aligned to 64 bytes."""
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


_LOADED: dict[str, ctypes.CDLL] = {}  # by digest of source, compiler and options; libraries are never unloaded


def load(
    texts: dict[str, str],
    name: str,
    shape: tuple[int, int, int],
    outputs: int,
    weights: bytes,
    flags: Sequence[str] = (),
) -> Library:
    """Compile a network's source in a temporary folder and load it.

    Raises:
        InputError: no compiler, or it fails.
    """
    compiled_from = repr([texts["model.c"], texts["model.h"], find_compiler(), flags, os.environ.get("CFLAGS")])
    key = hashlib.sha256(compiled_from.encode()).hexdigest()
    if key not in _LOADED:
        with scratch_folder() as folder:  # a loaded library no longer needs its file
            for file in ("model.c", "model.h"):
                Path(folder, file).write_text(texts[file], encoding="utf-8")
            compile_library(Path(folder, "model.c"), Path(folder, "model.so"), flags)
            _LOADED[key] = ctypes.CDLL(str(Path(folder, "model.so")))
    return Library(_LOADED[key], name, shape, outputs, weights)
