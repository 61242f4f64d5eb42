"""Values that users write: recipes and other YAML files, ``KEY=VALUE`` on the command line, JSON records.

YAML is read as version 1.2, consistent with JSON: ``1e-1`` and ``0o17`` are numbers; ``on``, ``yes``,
``1_000``, ``12:30`` and dates are text. PyYAML reads version 1.1 by default and accepts duplicate keys.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from compactnets.errors import InputError

MOST_VALUES = 100_000  # of a document once its aliases are written out: a few lines of them can stand for billions
LONGEST_REPR = 80

_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, with only its own tags and no duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _problem(f"a key must be text, found {_source(key)}; put it in quotes", key)
            if key.value in seen:
                raise _problem(f"the key {key.value!r} is given twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_constructors = {}


class _TextLoader(_Loader):
    """The same, but every value is text: names of classes such as ``no`` and ``2024`` are names."""

    yaml_implicit_resolvers: dict[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as another type."""

    yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _source(node: yaml.Node) -> str:
    return shorten(node.value) if isinstance(node, yaml.ScalarNode) else "a list or a mapping"


def _problem(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    if not _INT.match(text):
        raise _problem(f"{shorten(text)} is not an integer", node)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    try:
        return int(text if base == 10 else text[2:], base)
    except ValueError:  # more digits than Python reads
        raise _problem(f"an integer of {len(text):,} digits is too large", node) from None


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = node.value.lower()
    if not _FLOAT.match(node.value):
        raise _problem(f"{shorten(text)} is not a number", node)
    if text.endswith((".inf", ".nan")):
        return float(text.replace(".", ""))
    if math.isinf(value := float(text)):
        raise _problem(f"the number {shorten(text)} is too large", node)
    return value


def _boolean(loader: _Loader, node: yaml.ScalarNode) -> bool:
    if not _BOOL.match(node.value):
        raise _problem(f"{shorten(node.value)} is neither true nor false", node)
    return node.value.lower() == "true"


def _null(loader: _Loader, node: yaml.ScalarNode) -> None:
    if not _NULL.match(node.value):
        raise _problem(f"{shorten(node.value)} is not null", node)


for _tag, _pattern, _first, _construct in (
    ("bool", _BOOL, "tTfF", _boolean),
    ("int", _INT, "-+0123456789", _integer),
    ("float", _FLOAT, "-+.0123456789", _float),
    ("null", _NULL, ["~", "n", "N", ""], _null),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
for _tag in ("str", "seq", "map"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", getattr(yaml.SafeLoader, f"construct_yaml_{_tag}"))
_Loader.add_constructor(None, yaml.SafeLoader.construct_undefined)  # type: ignore[type-var]


def parse_yaml(text: str, what: str, *, only_text: bool = False) -> Any:
    """Parse YAML 1.2.

    Args:
        text: one document.
        what: its name in errors.
        only_text: read every value as text, not as a number, a boolean or null.

    Raises:
        InputError: not YAML, a duplicate or non-text key, a tag that is not YAML's own, a number that is too large, or
            aliases that expand to more than :data:`MOST_VALUES` values; one line with line and column.
    """
    try:
        value = yaml.load(text, Loader=_TextLoader if only_text else _Loader)
        if _count(value, {}) > MOST_VALUES:
            raise InputError(f"{what} stands for more than {MOST_VALUES:,} values: it cannot be read")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise InputError(f"{what} is not valid YAML: {_line(error.problem or error.context or error)}{where}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{what} is not valid YAML: {_line(error)}") from None
    except RecursionError:
        raise InputError(f"{what} is nested too deeply, or contains itself: it cannot be read") from None
    return value


def read_yaml(path: str | Path, what: str, *, only_text: bool = False) -> Any:
    """Read a YAML file in UTF-8, with or without a byte order mark; see :func:`parse_yaml`.

    Raises:
        InputError: a file that cannot be read, has another encoding, or is not YAML.
    """
    return parse_yaml(read_text(path, what), what, only_text=only_text)


def read_json(path: str | Path, what: str) -> Any:
    """Read a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: a file that cannot be read, has another encoding, is not JSON, or has a duplicate key.
    """
    return parse_json(read_text(path, what), what)


def parse_json(text: str, what: str) -> Any:
    """Parse JSON; see :func:`read_json`."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise InputError(f"{what} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{what} is not valid JSON: {_line(error)}") from None


def read_text(path: str | Path, what: str) -> str:
    """Read a text file in UTF-8; a byte order mark is removed.

    Raises:
        InputError: a file that cannot be read, or has another encoding.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {what}: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]
        found = "it looks like UTF-16" if wide else f"byte {error.start} is 0x{data[error.start]:02x}"
        raise InputError(f"{what} must be text in UTF-8, but {found}: save it as UTF-8") from None


def dump_yaml(value: Any) -> str:
    """Return a value as YAML that :func:`parse_yaml` reads back unchanged; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def parse_settings(pairs: Iterable[str], example: str) -> list[tuple[str, Any]]:
    """Parse ``--set KEY=VALUE`` options, in order; values are YAML.

    Args:
        pairs: the options.
        example: suggested in errors.

    Raises:
        InputError: not of this form (see :func:`parse_yaml`), a duplicate key, or a whole group after one of its keys,
            which would be lost.
    """
    found: dict[str, tuple[Any, str]] = {}
    for pair in pairs:
        key, value = _parse_setting(pair, example)
        for earlier, (_, text) in found.items():
            if earlier == key or earlier.startswith(f"{key}."):
                raise InputError(
                    f"--set {earlier}={text} and --set {key}={shorten_text(pair.partition('=')[2])}: give one of them"
                )
        found[key] = value, shorten_text(pair.partition("=")[2])
    return [(key, value) for key, (value, _) in found.items()]


def parse_counts(text: str, option: str) -> list[int]:
    """Return the whole numbers of a comma-separated list, each once.

    Raises:
        InputError: something else, or a number below 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"0*[1-9]\d{0,5}", part, re.ASCII) for part in parts):
        raise InputError(f"{option} expects whole numbers from 1, separated by commas, found {shorten(text)}")
    return list(dict.fromkeys(map(int, parts)))


def _parse_setting(pair: str, example: str) -> tuple[str, Any]:
    key, equals, text = pair.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set takes KEY=VALUE, such as {example}, found {shorten(pair)}")
    return key.strip(), parse_yaml(text, f"--set {key.strip()}: the value {shorten(text)}")


def shorten(value: object) -> str:
    """Format a value for an error: as in Python, but null and booleans as in YAML; cut if long."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return shorten_text(text)


def shorten_text(text: str) -> str:
    """Format a text for an error: cut if long."""
    return text if len(text) <= LONGEST_REPR else f"{text[: LONGEST_REPR - 3]}..."


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _count(value: Any, known: dict[int, int]) -> int:
    """Count the values of a document with its aliases expanded; a self-containing one never ends."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(each, known) for each in inner)
    return known[id(value)]


def _line(error: object) -> str:
    return " ".join(str(error).split())


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of ``512`` or ``600x800``.

    Raises:
        InputError: neither.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides):
        raise InputError(f"--size takes one side or HEIGHTxWIDTH in pixels, such as 512 or 600x800, found {text!r}")
    return int(sides[0]), int(sides[-1])
