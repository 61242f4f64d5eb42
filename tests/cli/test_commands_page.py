"""docs/commands.md says what the help texts say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def commands() -> ModuleType:
    spec = importlib.util.spec_from_file_location("commands", ROOT / "environments" / "commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_help_texts_say(commands: ModuleType) -> None:
    """After a change of an option: python environments/commands.py."""
    assert commands.PAGE.read_text(encoding="utf-8") == commands.render()


def test_every_verb_and_option_is_there(commands: ModuleType) -> None:
    page = commands.render()
    assert "### papers cost\n" in page
    assert "| `--max-drop` |" in page
    assert "One of `" in page  # choices
    assert page.count("\n### ") == sum(1 for _ in commands.verbs(commands.typer.main.get_command(commands.app)))
