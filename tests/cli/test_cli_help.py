"""The help of every verb at 80 columns, the version, completion, and one line for wrong usage."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

import compactnets
from compactnets.deploy import FORMATS
from compactnets_cli import app
from compactnets_cli.options import expand_home

from .helpers import Outcome

Run = Callable[..., Outcome]


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from verbs(inner, (*path, name))


VERBS = dict(verbs(typer.main.get_command(app)))


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_help_is_complete_at_80_columns(path: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    shown = run(*path, "--help").out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    options = {name for parameter in VERBS[path].params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {name for name in options if name.startswith("--")} <= set(shown.replace(",", " ").split())


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_every_verb_has_an_example_that_it_takes(path: tuple[str, ...]) -> None:
    example = VERBS[path].epilog
    assert example.startswith(f"Example: compactnets {' '.join(path)}")
    words = example.split()
    known = {name for parameter in VERBS[path].params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known
    required = {parameter.opts[0] for parameter in VERBS[path].params if parameter.required}
    assert {name for name in required if name.startswith("--")} <= set(words)


def test_every_format_is_named() -> None:
    """In the help of export, and in Python's."""
    options = {parameter.name: parameter.help for parameter in VERBS["export",].params}
    formats = set(re.findall(r"\w+", options["format_name"]))
    assert set(FORMATS) <= formats
    assert set(re.findall(r'``"(\w+)"``', compactnets.export.__doc__ or "")) == set(FORMATS)
    fixed = {name for name, form in FORMATS.items() if not form.any_batch}
    assert set(re.findall(r"\w+", options["batch_size"])) & set(FORMATS) == fixed


def test_verbs_stand_in_groups(run: Run) -> None:
    shown = run("--help").out
    for heading in ("Train and use", "Networks", "Deploy", "More verbs"):
        assert heading in shown
    assert " Commands " not in shown  # none is left over


def test_options_mean_the_same_everywhere() -> None:
    """--model is a network's name; weights by their name are --weights."""
    for path, command in VERBS.items():
        for parameter in command.params:
            if "--model" in parameter.opts:
                assert any(word in parameter.help for word in ("Network", "network", "Backbone")), path
            if "--weights" in parameter.opts:
                assert "Weights by name" in parameter.help
    assert {path for path, command in VERBS.items() if any("--weights" in p.opts for p in command.params)} == {
        ("eval",),
        ("predict",),
    }


def test_version(run: Run) -> None:
    assert run("--version").out == f"compactnets {compactnets.__version__}\n"


def test_the_version_does_not_wait_for_torch() -> None:
    code = (
        "import sys, compactnets_cli; sys.argv = ['compactnets', '--version']\n"
        "try: compactnets_cli.main()\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["compactnets", compactnets.__version__, "False"]


def test_a_shell_completes_verbs_and_options() -> None:
    code = "import compactnets_cli; compactnets_cli.main()"
    for words, expected in (("compactnets pro", "profile"), ("compactnets train --prin", "--print-config")):
        asked = {"_COMPACTNETS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **asked}
        )
        assert done.stdout.split() == [expected]


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["fly"], "fly"),
        (["train"], "recipe"),
        (["train", "--outptu", "x"], "--output"),
        (["eval", "--data", "x", "--metric", "[/b] test"], "[/b] test"),
        (["quantize", "x", "--format"], "--format"),
        (["profile", "x", "--batch-size", ":m:"], "--batch-size"),
        (["eval", "--checkpoint", "x", "--data", "y", "--metric", "a\nb"], "--metric"),
        (["fly\x1b[31m"], "\\x1b"),
        (["fly\udcff"], "\\udcff"),
        (["--nothing"], "--nothing"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_wrong_usage_is_one_line(words: list[str], fact: str, run: Run) -> None:
    done = run(*words)
    assert done.code == 2
    assert not done.out
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("compactnets: error: ")
    assert fact.lower() in done.err.lower()  # Typer has written names of arguments in capitals
    assert "--help" in done.err
    assert "\x1b" not in done.err


@pytest.mark.parametrize("words", [[], ["papers"], ["data"]], ids=" ".join)
def test_a_group_alone_shows_its_help_once(words: list[str], run: Run) -> None:
    done = run(*words)
    assert (done.out + done.err).count("Usage: compactnets") == 1


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    given = ["--output=~/x", "~/x", "~", "--data=~", "--set", "preprocess=~", "--set=a=~", "a~", "--x", "-~", "=~/x"]
    expected = ["--output=/h/x", "/h/x", "/h", "--data=/h", *given[4:]]
    assert [expand_home(each) for each in given] == expected
