"""Compile and load the kernels in C."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path

from compactnets.compiler import NATIVE, find_compiler, run_compiler
from compactnets.errors import InputError
from compactnets.failures import scratch_folder


class Part(ctypes.Structure):
    """``part`` of ``kernels/vector.c``."""

    _fields_ = (
        ("x", c_void_p),
        ("step", c_long),
        ("gx", c_void_p),
        ("gx_step", c_long),
        ("channels", c_int),
        ("add", c_int),
    )


class Rows(ctypes.Structure):
    """``pending`` of ``kernels/vector.c``."""

    _fields_ = (
        ("parts", ctypes.POINTER(Part)), ("count", c_int), ("mean", c_void_p), ("scale", c_void_p), ("bias", c_void_p),
        ("low", c_float), ("high", c_float), ("own", c_void_p * 2),
    )  # fmt: skip


class Gradient(ctypes.Structure):
    """``output_gradient`` of ``kernels/vector.c``."""

    _fields_ = (
        ("g", c_void_p), ("step", c_long), ("z", c_void_p), ("mean", c_void_p), ("g_mean", c_void_p),
        ("g_variance", c_void_p),
    )  # fmt: skip


class Window(ctypes.Structure):
    """``window`` of ``kernels/depthwise.c``."""

    _fields_ = (
        ("images", c_long), ("height", c_int), ("width", c_int), ("channels", c_int), ("size", c_int), ("stride", c_int)
    )  # fmt: skip


FLAGS = ("-std=gnu99", "-O3", "-fPIC", "-shared", "-fvisibility=hidden")
SOURCE = Path(__file__).parent / "kernels" / "kernels.c"
POINTER, INT, LONG, FLOAT = c_void_p, c_int, c_long, c_float
ARGUMENTS = {
    "pointwise_forward": (POINTER, POINTER, LONG, INT, INT, INT, POINTER, POINTER, POINTER, INT),
    "pointwise_backward": (POINTER, POINTER, POINTER, LONG, INT, INT, INT, POINTER, POINTER, INT),
    "depthwise_forward": (POINTER, POINTER, POINTER, POINTER, POINTER, POINTER, INT),
    "depthwise_backward": (POINTER, POINTER, POINTER, POINTER, POINTER, POINTER, INT),
    "join_forward": (POINTER, POINTER, FLOAT, FLOAT, LONG, INT, POINTER, INT),
    "join_backward": (POINTER, POINTER, FLOAT, FLOAT, LONG, INT, POINTER, LONG, POINTER, POINTER, INT),
    "pool_forward": (POINTER, LONG, LONG, INT, POINTER, INT),
    "pool_backward": (POINTER, LONG, LONG, INT, POINTER, POINTER, INT),
    "measure_forward": (POINTER, LONG, LONG, INT, POINTER, POINTER, INT),
    "scale_forward": (POINTER, POINTER, POINTER, FLOAT, INT, LONG, FLOAT, POINTER, POINTER, POINTER),
    "scale_backward": (POINTER, POINTER, FLOAT, INT, POINTER, POINTER, POINTER),
}


@cache
def kernels() -> ctypes.CDLL:
    """Compile the kernels for this processor, and load them.

    Raises:
        InputError: no compiler, or it fails.
    """
    compiler, failed = find_compiler("the package's own kernels need a C compiler"), None
    with scratch_folder() as folder:  # a loaded library no longer needs its file
        for native in ([NATIVE], []):  # not every compiler has the option
            failed = run_compiler(compiler, [*FLAGS, *native], SOURCE, folder / "kernels.so", ["-lm"])
            if failed is None:
                break
        if failed is not None:
            raise InputError(failed)
        try:
            library = ctypes.CDLL(str(folder / "kernels.so"))
        except OSError as error:
            raise InputError(f"the package's own kernels cannot be loaded: {error}") from None
    for name, arguments in ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    # torch's own threads: others would compete with them for the processor. Without them a kernel runs on one
    if (start := getattr(ctypes.CDLL(None), "GOMP_parallel", None)) is not None:
        library.use_threads(ctypes.cast(start, c_void_p))
    return library


def missing() -> str | None:
    """Return why the kernels are not available, in one line, or ``None`` if they are."""
    try:
        kernels()
    except (InputError, OSError) as error:
        return str(error)
    return None
