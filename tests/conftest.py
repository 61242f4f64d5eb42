"""Fixtures shared by the tests."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import torch

import compactnets  # noqa: F401  (registers the families with timm)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real data and reference weights; the test is skipped where it is absent."""
    root = Path(os.environ.get("COMPACTNETS_SHARED") or Path(__file__).parents[2] / "shared")
    if not (root / "data").is_dir():
        pytest.skip(f"real data not present: neither $COMPACTNETS_SHARED nor {root.name} beside the checkout")
    return root


@pytest.fixture(scope="session", autouse=True)
def _exporter_reads_its_operators_once() -> None:
    """Spare the second it takes torch's ONNX exporter, at every export, to parse the source of onnxscript's operators.

    What it parses never changes within a process; where torch keeps it elsewhere, nothing is spared.
    """
    try:
        from torch.onnx._internal._lazy_import import onnxscript_apis

        operators = onnxscript_apis.get_torchlib_ops
        onnxscript_apis._module.get_torchlib_ops = functools.cache(operators)
    except (ImportError, AttributeError):
        return
