"""Fixtures of the tests of the data layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .helpers import noise


@pytest.fixture
def image_tree(tmp_path: Path) -> Callable[..., Path]:
    """Write one 8 x 8 PNG per path (relative to the folder that is returned); a path that ends in / is a folder."""

    def write(*paths: str, size: tuple[int, int] = (8, 8), root: str = "data") -> Path:
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        for seed, path in enumerate(paths):
            target = folder / path
            if path.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".png":
                noise(*size, seed=seed).save(target)
            else:
                target.write_text("not an image")
        return folder

    return write
