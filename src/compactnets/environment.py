"""What a number depends on besides the code: versions, machine, device."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "torchvision", "timm", "pillow", "numpy")


def software_versions() -> dict[str, str]:
    """Return the versions that a number depends on."""
    from compactnets import __version__  # not from the metadata: a source tree on the path has none

    libraries = {name: version(name) for name in LIBRARIES}
    return {"compactnets": __version__, "python": platform.python_version(), **libraries}


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, system, processor, threads and device, for JSON."""
    return {
        "versions": software_versions(),
        "system": platform.platform(),
        "processor": f"{cpu_name()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
