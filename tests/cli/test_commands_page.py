"""docs/commands.md says what the help texts say."""

from __future__ import annotations

from types import ModuleType

import pytest

from ..scripts import load_script


@pytest.fixture(scope="module")
def commands() -> ModuleType:
    return load_script("environments/commands.py")


def test_the_page_is_what_the_help_texts_say(commands: ModuleType) -> None:
    """After a change of an option: python environments/commands.py."""
    assert commands.PAGE.read_text(encoding="utf-8") == commands.render()


def test_every_verb_and_option_is_there(commands: ModuleType) -> None:
    page = commands.render()
    assert "### papers cost\n" in page
    assert "| `--max-drop` |" in page
    assert "One of `" in page  # choices
    assert page.count("\n### ") == sum(1 for _ in commands.verbs(commands.typer.main.get_command(commands.app)))
