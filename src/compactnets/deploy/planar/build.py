"""Compile and run a generated network."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from compactnets.compiler import NATIVE, find_compiler, run_compiler
from compactnets.errors import InputError
from compactnets.failures import scratch_folder

FLAGS = ("-std=gnu99", "-O3", "-fPIC", "-shared")
OPENMP = "-fopenmp"


def compile_library(source: Path, output: Path, flags: Sequence[str] = (), threads: int = 1) -> None:
    """Compile ``model.c`` to a shared library for this machine; ``$CFLAGS`` is appended to the options.

    Args:
        threads: number of threads for a single image, if the compiler has OpenMP.

    Raises:
        InputError: no compiler, or it fails; the message has its first error.
    """
    compiler, errors = find_compiler(), ""
    flags = [*flags, *shlex.split(os.environ.get("CFLAGS", ""))]
    parallel = [[OPENMP, f"-DPLANAR_THREADS={threads}"], []] if threads > 1 else [[]]
    for optional in itertools.product(parallel, ([NATIVE], [])):  # not every compiler supports these options
        options = [*FLAGS, *itertools.chain(*optional), *flags]
        failed = run_compiler(compiler, options, source, output, ["-lm"])
        if failed is None:
            return
        errors = errors or failed
    raise InputError(errors)


class Library:
    """A compiled and loaded network: images in, logits out."""

    def __init__(
        self, library: ctypes.CDLL, name: str, shape: tuple[int, int, int], outputs: int, weights: bytes
    ) -> None:
        self.shape, self.outputs = shape, outputs
        self._library, self._name = library, name
        self._run = library[f"{name}_run"]
        self._run_pixels = library[f"{name}_run_pixels"]
        self._run.restype = self._run_pixels.restype = None
        self._run.argtypes = self._run_pixels.argtypes = [ctypes.c_void_p] * 4
        bytes_ = library[f"{name}_arena_bytes"]
        bytes_.restype = ctypes.c_size_t
        self._arena_bytes = int(bytes_())
        self._set_threads = getattr(library, "omp_set_num_threads", None)  # of OpenMP, for the calling thread
        self._get_threads = getattr(library, "omp_get_max_threads", None)
        self._weights = aligned(len(weights))
        self._weights[:] = np.frombuffer(weights, np.uint8)
        self._address = self._weights.ctypes.data
        if embedded := getattr(library, f"{name}_weights", None):
            embedded.restype = ctypes.c_void_p
            self._address = embedded()
        self._arenas: list[np.ndarray] = []  # not in use

    def seconds(self, steps: int) -> np.ndarray:
        """Return the seconds of every step in all runs together, of a library compiled with ``-DPLANAR_PROFILE``."""
        return np.array((ctypes.c_double * steps).in_dll(self._library, f"{self._name}_seconds"))

    @property
    def has_threads(self) -> bool:
        """Whether several threads can compute one image: whether it was compiled with OpenMP."""
        return self._set_threads is not None

    @property
    def arena_bytes(self) -> int:
        """Bytes of working memory per run."""
        return self._arena_bytes

    def run(self, images: np.ndarray, threads: int = 1) -> np.ndarray:
        """Run on (N, C, H, W) float32, or (N, H, W, C) uint8; return (N, outputs).

        Args:
            images: images of the network's size.
            threads: number of images computed in parallel, each in a separate arena. A single image is computed by all
                threads together, if the library was compiled with OpenMP.

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

        def run(indices: range, threads: int) -> None:
            try:  # concurrent calls use different arenas
                arena = self._arenas.pop()
            except IndexError:
                arena = aligned(self._arena_bytes)
            with self._on(threads):
                for index in indices:
                    image, row = images[index], rows[index]
                    function(self._address, arena.ctypes.data, image.ctypes.data, row.ctypes.data)
            self._arenas.append(arena)

        if threads == 1 or len(images) == 1:
            run(range(len(images)), threads)
            return rows
        workers = min(threads, len(images))
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda start: run(range(start, len(images), workers), 1), range(workers)))
        return rows

    @contextmanager
    def _on(self, threads: int) -> Iterator[None]:
        """Let so many threads compute an image. PyTorch may use the same OpenMP: its number is put back."""
        if self._set_threads is None or self._get_threads is None:
            yield
            return
        before = self._get_threads()
        self._set_threads(threads)
        try:
            yield
        finally:
            self._set_threads(before)


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
    threads: int = 1,
) -> Library:
    """Compile a network's source in a temporary folder and load it.

    Args:
        threads: largest number of threads for a single image.

    Raises:
        InputError: no compiler, or it fails.
    """
    compiled_from = repr(
        [texts["model.c"], texts["model.h"], find_compiler(), flags, os.environ.get("CFLAGS"), threads]
    )
    key = hashlib.sha256(compiled_from.encode()).hexdigest()
    if key not in _LOADED:
        _LOADED[key] = _compiled({name: texts[name] for name in ("model.c", "model.h")}, flags, threads)
    return Library(_LOADED[key], name, shape, outputs, weights)


def _compiled(texts: dict[str, str], flags: Sequence[str], threads: int) -> ctypes.CDLL:
    with scratch_folder() as folder:  # a loaded library no longer needs its file
        for file, text in texts.items():
            Path(folder, file).write_text(text, encoding="utf-8")
        compile_library(Path(folder, "model.c"), Path(folder, "model.so"), flags, threads)
        return ctypes.CDLL(str(Path(folder, "model.so")))


def core_limit(source: str) -> tuple[Callable[[], None], int]:
    """Compile a loop of multiply-adds in registers (``emit.limit_source``).

    Returns:
        a call of about 10 ms on one core, and how many multiply-adds it does.

    Raises:
        InputError: no compiler, or one that fails.
    """
    library = _compiled({"model.c": source}, [], 1)
    library.limit_run.argtypes = [ctypes.c_int, ctypes.c_float, ctypes.c_float]
    library.limit_run.restype = ctypes.c_float
    macs, rounds = int(library.limit_macs()), 1000

    def seconds() -> float:
        start = time.perf_counter()
        library.limit_run(rounds, 0.999, 1e-3)
        return time.perf_counter() - start

    while seconds() < 0.01:
        rounds *= 2

    def run() -> None:
        library.limit_run(rounds, 0.999, 1e-3)

    return run, macs * rounds
