"""The environment of a result: versions, machine, device, variables."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from compactnets.source import UNKNOWN, build_info, checkout_commit

LIBRARIES = ("torch", "torchvision", "timm", "pillow", "numpy")


def software_versions() -> dict[str, str]:
    """Return the versions of the relevant software."""
    from compactnets import __version__  # not from the metadata: a source tree on the path has none

    libraries = {name: version(name) for name in LIBRARIES}
    return {"compactnets": __version__, "python": platform.python_version(), **libraries}


def cpu_name() -> str:
    """Return the CPU's name, as reported by the system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def cpu_features() -> list[str]:
    """Return the CPU's vector and matrix instructions that matter for speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [flag for flag in flags if flag.startswith(("avx", "amx", "fma", "asimd", "sve", "i8mm", "bf16"))]


def commit() -> str:
    """Return the commit of this package's files, with a ``+`` appended if they differ.

    In a checkout it comes from git, in an installed package from the build; otherwise ``"unknown"``.
    """
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        return checkout_commit(root) or UNKNOWN
    return str(build_info().get("commit", UNKNOWN))


def portable_command(arguments: Sequence[str]) -> str:
    """Return a command of this package in shell syntax; absolute paths are reduced to their last part."""
    return shlex.join(["compactnets", *(Path(each).name if each.startswith("/") else each for each in arguments)])


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, system, CPU, threads and device, for JSON."""
    return {
        "versions": software_versions(),
        "system": platform.platform(),
        "processor": f"{cpu_name()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


@contextmanager
def set_variables(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables temporarily."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
