from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ..cli.conftest import run
from .stand_in import TOKEN, Hub, serve

__all__ = ["run"]


@pytest.fixture(scope="session")
def _server() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture
def hub(_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An empty Hub on this machine, for this process; huggingface_hub reads ``$HF_ENDPOINT`` when it is imported."""
    for each in (_server.repositories, _server.objects, _server.damaged, _server.requests, _server.cards):
        each.clear()
    _server.messages.clear()
    monkeypatch.setattr(constants, "ENDPOINT", _server.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", _server.url + template[template.index("/{repo_id") :])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has LFS
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return _server
