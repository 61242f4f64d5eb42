"""Values that users write: YAML is version 1.2's, a key stands once, and what cannot be read is one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from compactnets.errors import InputError
from compactnets.values import dump_yaml, parse_settings, parse_size, parse_yaml, read_json, read_yaml, shorten

NUMBERS = {
    "1e-1": 0.1, "[1e-1, 2E3]": [0.1, 2000.0], "{a: 1e-3}": {"a": 1e-3}, "1.": 1.0, ".5": 0.5, "+3": 3, "-.5e+1": -5.0,
    "0o17": 15, "017": 17, "0x1F": 31, "1.5": 1.5, "12": 12, "-.inf": -math.inf, "1e5": 1e5,
}  # fmt: skip
WORDS = ("on", "off", "yes", "No", "y", "1_000", "12:30:45", "2020-01-01", "0b11", "<<", "=", "-0o17", "'1e-1'", "e3")
OTHERS = {"true": True, "FALSE": False, "~": None, "": None, "Null": None, "{on: 1}": {"on": 1}, "1 # one": 1}


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_yaml_1_2s(text: str) -> None:
    value = parse_yaml(text, "it")
    assert (value, type(value)) == (NUMBERS[text], type(NUMBERS[text]))


@pytest.mark.parametrize("text", WORDS)
def test_everything_else_is_text(text: str) -> None:
    assert parse_yaml(text, "it") == text.strip("'")


@pytest.mark.parametrize("text", OTHERS)
def test_truth_and_nothing(text: str) -> None:
    value = parse_yaml(text, "it")
    assert (value, type(value)) == (OTHERS[text], type(OTHERS[text]))


def _bomb() -> str:
    """A few lines that stand for 10 ** 9 values."""
    lines = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]" for i in range(1, 9)]
    return "\n".join(["k0: &k0 [x, x, x, x, x, x, x, x, x, x]", *lines])


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("a: 1\nb: 2\na: 3", ("'a'", "line 3")),
        ("{a: {b: 1, b: 2}}", ("'b'", "line 1")),
        ("x: {1: 2}", ("'1'",)),
        ("{[1]: 2}", ("a list",)),
        ("a: [1", ("line 1",)),
        ("a\n---\nb", ("line 2",)),
        ("*nothing", ("nothing",)),
        ("1e999", ("1e999",)),
        ("9" * 5000, ("5,000",)),
        ("!!python/object/apply:os.system [true]", ("os.system",)),
        ("!!timestamp 2020-99-99", ("timestamp",)),
        ("!!bool maybe", ("maybe",)),
        ("!!int one", ("one",)),
        ("!!float 0x1", ("0x1",)),
        ("\0", ()),
        ("\udcff", ()),
        ("[" * 1200, ()),
        ("&a [*a]", ()),
        (_bomb(), ("100,000",)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_cannot_be_read_is_one_short_line(text: str, facts: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        parse_yaml(text, "the recipe x")
    message = str(error.value)
    assert message.startswith("the recipe x ")
    assert "\n" not in message
    assert len(message) < 300
    for fact in facts:
        assert fact in message


def test_what_is_written_is_read_back_the_same() -> None:
    value: dict[str, Any] = {
        "words": [*WORDS, *NUMBERS, *OTHERS, "é", "\udcff", ":m:", "a: b", "- x", "# x", "[/b]", "a\nb"],
        "numbers": [1e-5, 1e22, -1e-10, 1, 2.0, 0.1, True, None, math.inf, 2**70],
        **{word: index for index, word in enumerate(WORDS)},
    }
    text = dump_yaml(value)
    assert parse_yaml(text, "it") == value
    assert list(parse_yaml(text, "it")) == list(value)
    again = [1, 2]
    assert "&" not in dump_yaml([again, again])  # no aliases


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_files_are_utf8_with_or_without_a_mark(read: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_bytes('{"a": "é"}'.encode(encoding))
        assert read(file, "it") == {"a": "é"}
        assert read(str(file), "it") == {"a": "é"}
    for encoding, fact in (("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"), ("latin-1", "0xe9")):
        file.write_bytes('{"a": "é"}'.encode(encoding))
        with pytest.raises(InputError, match=fact) as error:
            read(file, "the file it")
        assert "the file it" in str(error.value)
    with pytest.raises(InputError, match="the file it"):
        read(tmp_path, "the file it")


def test_a_key_stands_once_in_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": {"b": 1, "b": 2}}')
    with pytest.raises(InputError, match="'b'"):
        read_json(tmp_path / "a.json", "it")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="it is not valid JSON"):
        read_json(tmp_path / "a.json", "it")


def test_settings() -> None:
    assert parse_settings(["a.b=[1e-1]", " c =x=y"], "x=1") == [("a.b", [0.1]), ("c", "x=y")]
    for wrong in ("a", "=3", " =3", ""):
        with pytest.raises(InputError, match="KEY=VALUE"):
            parse_settings([wrong], "x=1")


def test_values_are_shown_short() -> None:
    assert [shorten(value) for value in (True, None, "a", 1.5)] == ["true", "null", "'a'", "1.5"]
    assert len(shorten("a" * 1000)) == 80


def test_a_size_is_one_side_or_two() -> None:
    assert (parse_size("64"), parse_size("64x96")) == ((64, 64), (64, 96))
    for text in ("", "x", "64x", "0", "1x2x3", "-4"):
        with pytest.raises(InputError, match="such as 512 or 600x800"):
            parse_size(text)
