"""The console: text is printed as it is, tables are complete, and nothing else of the package prints."""

from __future__ import annotations

import ast
import io
import itertools
import json
import sys
from pathlib import Path

import pytest

from compactnets import console
from compactnets.console import Group, PlainConsole, Table, Tracker, visible

SOURCE = Path(__file__).parents[1] / "src"
PRINTS = {"compactnets/console.py", "compactnets_cli/__init__.py"}  # these alone print, or import rich
NAMES = ("[/b] sign", "[v2]", "[red]x[/red]", ":m: :cat:", "3.14 'a' http://x", "[link=http://x]y", "\\[a]")
STEERS = ("\x1b[31mred", "a\rb", "\x07", "\u202eabc", "\udcff.png", "\x9b31m")


def printed(*objects: object, width: int | None = None) -> str:
    file = io.StringIO()
    PlainConsole(file=file, width=width).print(*objects)
    return file.getvalue()


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_the_console_prints(path: Path) -> None:
    """Whoever printed or made rich objects by itself would print names of the user's as markup again."""
    if str(path.relative_to(SOURCE)) in PRINTS:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] != "rich", f"line {node.lineno} imports rich"
        elif isinstance(node, ast.Import):
            assert not [a for a in node.names if a.name.partition(".")[0] == "rich"], f"line {node.lineno}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno} prints: say or stdout.print"


@pytest.mark.parametrize("name", NAMES)
def test_text_is_printed_as_it_is(name: str) -> None:
    assert printed(name) == f"{name}\n"
    table = Table(name, title=name)
    table.add_figures(name)
    table.add_row(name, name)
    for width in (200, 12):
        assert "".join(printed(table, width=width).split()).count("".join(name.split())) >= 4
    assert name in printed(Group(name, name))


@pytest.mark.parametrize("text", STEERS)
def test_what_would_steer_the_terminal_is_escaped(text: str) -> None:
    table = Table("name")
    table.add_row(text)
    for shown in (printed(text), printed(table), printed(Group(text))):
        assert not set(shown) & set("\x1b\r\x07\x9b\u202e\udcff")
        assert "\\" in shown
    assert visible("a\nb\té 中 😀") == "a\nb\té 中 😀"


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", "\\xe9 \\u4e2d"), ("cp1252", "é \\u4e2d")])
def test_what_the_encoding_lacks_is_escaped(encoding: str, expected: str) -> None:
    data = io.BytesIO()
    file = io.TextIOWrapper(data, encoding=encoding, newline="\n")
    shown = PlainConsole(file=file, width=80)
    table = Table("é 中", title="é 中", lines=True)
    table.add_row("é 中")
    shown.print("é 中")
    shown.print(table)
    file.flush()
    assert data.getvalue().decode(encoding).count(expected) == 4


def test_a_long_line_is_one_line() -> None:
    path = "/a folder/" * 40
    assert printed(path, width=40) == f"{path}\n"


def wide_table(figures: int) -> Table:
    table = Table("network", "format", title="a title")
    table.add_figures(*(f"figure {number}" for number in range(figures)))
    table.add_row(
        "a network with a name of several words", "onnx", *(f"{number}.{number:03d}" for number in range(figures))
    )
    table.add_row(
        "muffnet_x0_5_with_a_name_that_cannot_be_wrapped", "", *(f"-{number}.55" for number in range(figures))
    )
    return table


@pytest.mark.parametrize(("figures", "width"), list(itertools.product((2, 5, 12), (200, 80, 40, 20))))
def test_no_cell_is_cut_off(figures: int, width: int) -> None:
    """Figures and headings are whole, text is whole once its lines are joined; nothing passes the edge."""
    shown = printed(wide_table(figures), width=width)
    assert "…" not in shown
    words = shown.split()
    for number in range(figures):
        assert {f"{number}.{number:03d}", f"-{number}.55"} <= set(words)
        assert f"figure {number}" in shown
    text = "".join(word for word in words if not word.lstrip("-").replace(".", "").isdigit())
    assert "muffnet_x0_5_with_a_name_that_cannot_be_wrapped" in text
    assert max(map(len, shown.splitlines())) <= width


def test_a_pipe_has_no_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    shown = printed(wide_table(12))
    assert len(shown.splitlines()) == 4  # title, headings, and a line for each row
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, printed(wide_table(2)).splitlines())) <= 80


def test_progress_prints_its_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    monkeypatch.setattr(console, "stderr", PlainConsole(file=file, width=120))
    for bar in (False, True):
        monkeypatch.setattr(console.stderr, "_force_terminal", bar)
        monkeypatch.setattr(console.stderr, "is_interactive", bar)
        tracker = Tracker([1, 2], 2, "[/b] :m: \udcff", frequency=1)
        for _ in tracker:
            tracker.note("[/i] \x1b[31m")
    shown = file.getvalue()
    assert shown.count("[/b] :m: \\udcff") >= 2
    assert "[/i] \\x1b[31m" in shown


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_json_is_json_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": "é 中 😀 \udcff", "[v2]": ":m:"}
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding))
    console.print_json(value)
    assert json.loads(data.getvalue().decode(encoding)) == value
