"""Fixtures shared by the tests."""

from __future__ import annotations

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
