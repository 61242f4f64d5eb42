"""Find and run a C compiler."""

from __future__ import annotations

import errno
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from compactnets.errors import InputError

NATIVE = "-march=native"
TIMEOUT = 600
FULL = 2**16  # a disk with fewer free bytes counts as full


def find_compiler(purpose: str = "format c needs a C compiler to check and run its code") -> list[str]:
    """Return the command of a C compiler: ``$CC``, ``cc``, or the one in the ``ziglang`` wheel.

    Args:
        purpose: the beginning of the message if there is none.

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
    raise InputError(f"{purpose}, found neither $CC nor cc: install one with python -m pip install 'compactnets[c]'")


def run_compiler(
    compiler: Sequence[str], options: Sequence[str], source: Path, output: Path, libraries: Sequence[str] = ()
) -> str | None:
    """Compile one file; return ``None``, or the compiler's first error in one line.

    Raises:
        InputError: the compiler cannot be started, or takes too long.
        OSError: the disk is full.
    """
    command = [*compiler, *options, str(source), *libraries, "-o", str(output)]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{compiler[0]} took longer than {TIMEOUT} seconds for {source.name}") from None
    except OSError as error:
        raise InputError(f"{compiler[0]} cannot be started: {error.strerror}") from None
    if done.returncode == 0:
        return None
    if shutil.disk_usage(output.parent).free < FULL:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output.parent))
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    return f"{' '.join(compiler)} cannot compile {source.name}: {(lines or ['no message'])[0].strip()}"
