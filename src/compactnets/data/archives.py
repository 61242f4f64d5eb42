"""Find the tar archives of a data set in WebDataset format, and the list of classes beside them."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from compactnets.data.base import VAL_NAMES, shorten
from compactnets.data.listing import folders_called
from compactnets.errors import InputError

ENDINGS = ("*.tar", "*.tar.gz", "*.tgz")  # compressed ones only to report that they cannot be read
SPLIT_WORD = re.compile(rf"(?<![a-z])(train|{'|'.join(VAL_NAMES)})(?:ing)?(?![a-z])", re.IGNORECASE)
NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?=\D*$)")  # the last number of a name is the shard's
RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
CLASS_FILES = ("classes.txt", "classnames.txt", "class_names.txt", "labels.txt")
INFO_FILES = ("_info.json", "info.json")
INFO_FIELDS = ("class_names", "classes", "label_names", "labels")
MOST_SHARDS = 100_000
MOST_BRACES = 50
MOST_GAPS = 10  # numbers per shard: files numbered more sparsely are not a sequence


def find_archives(folder: Path) -> list[Path]:
    """Return the archives in ``folder``, or those in its folders ``train``, ``val``, …

    Raises:
        InputError: numbered shards with gaps, or fewer than the ``_info.json`` beside them lists.
    """
    for places in ([folder], folders_called(folder, ("train", *VAL_NAMES))):
        found = {shard for place in places for ending in ENDINGS for shard in place.glob(ending)}
        shards = sorted((shard for shard in found if not shard.name.startswith(".")), key=_natural)
        if shards:
            _check_complete(folder, shards)
            return shards
    return []


def divide(shards: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the shards of every split.

    The split is the last word ``train``, ``val``, ``valid``, ``validation`` or ``test`` in a shard's name, otherwise in
    its folder's name. Shards without a split have the key ``""``.
    """
    by_split = defaultdict(list)
    for shard in shards:
        words = SPLIT_WORD.findall(shard.name) or SPLIT_WORD.findall(shard.parent.name)
        by_split[words[-1].lower() if words else ""].append(shard)
    return dict(by_split)


def is_pattern(spec: str) -> bool:
    """Whether ``spec`` names archives: a path, a pattern with braces or ``*``, several joined by ``::``, or a URL."""
    return "::" in spec or "://" in spec or spec.startswith("pipe:") or bool(re.search(r"\.(tar|tgz)[^/]*$", spec))


def expand_pattern(spec: str) -> list[Path]:
    """Return the archives that ``spec`` names.

    Raises:
        InputError: remote archives, too many, or some that do not exist.
    """
    if "://" in spec or spec.startswith("pipe:"):
        raise InputError(f"{spec} is not on this machine: expected a path; download the shards and give their folder")
    if spec.count("{") > MOST_BRACES:
        raise InputError(f"expected a pattern of at most {MOST_BRACES} pairs of braces, found {spec.count('{')}")
    patterns = [os.path.expanduser(pattern) for pattern in spec.split("::")]
    expanded = (path for pattern in patterns for path in expand_braces(pattern))
    paths = list(itertools.islice(expanded, MOST_SHARDS + 1))
    if len(paths) > MOST_SHARDS:
        raise InputError(f"{spec} names more than {MOST_SHARDS:,} shards")
    shards: list[Path] = []
    for path in paths:
        globbed = glob.glob(path) if glob.has_magic(path) and not Path(path).exists() else [path]
        shards += [Path(found) for found in sorted(globbed, key=_natural)]
    if not shards:
        raise InputError(f"no shards match {spec}")
    if missing := [shard for shard in shards if not shard.is_file()]:
        raise InputError(
            f"{len(missing):,} of the {len(shards):,} shards of {spec} are missing, the first is {missing[0]}"
        )
    return list(dict.fromkeys(shards))


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield what a shell makes of ``{train,val}-{000..146}.tar``; braces may be nested."""
    depth = position = 0
    commas: list[int] = []
    start = pattern.find("{")
    for position in range(max(start, 0), len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[position], 0)
        if pattern[position] == "," and depth == 1:
            commas.append(position)
        if depth == 0:
            break
    if start < 0 or depth:
        yield pattern
        return
    inside = pattern[start + 1 : position]
    choices: Iterable[str]
    if ends := RANGE.fullmatch(inside):
        width = len(ends[1]) if ends[1].startswith("0") else 0
        choices = (str(number).zfill(width) for number in range(int(ends[1]), int(ends[2]) + 1))
    elif commas:
        options = [pattern[left + 1 : right] for left, right in itertools.pairwise([start, *commas, position])]
        choices = (choice for option in options for choice in expand_braces(option))
    else:
        choices = (f"{{{choice}}}" for choice in expand_braces(inside))
    for choice in choices:
        for tail in expand_braces(pattern[position + 1 :]):
            yield f"{pattern[:start]}{choice}{tail}"


def listed_classes(shard: Path) -> tuple[str, ...] | None:
    """Return the class names listed beside a shard, or one folder up if its folder is named after the split.

    That is ``classes.txt``, ``classnames.txt``, ``class_names.txt`` or ``labels.txt`` with a name per line, or
    ``class_names``, ``classes``, ``label_names`` or ``labels`` in ``_info.json`` or ``info.json``: a list, or an object
    from index to name. ``None`` if there is no such file.

    Raises:
        InputError: the list is malformed or repeats a name.
    """
    above = [shard.parent.parent] if SPLIT_WORD.fullmatch(shard.parent.name) else []
    for folder in (shard.parent, *above):
        for name in CLASS_FILES:
            if (folder / name).is_file():
                lines = _read_text(folder / name).splitlines()
                return _unique(folder / name, [line.strip() for line in lines if line.strip()])
        for path, info in _infos(folder):
            if stated := next((info[field] for field in INFO_FIELDS if field in info), None):
                if isinstance(stated, dict):
                    stated = [stated.get(str(number)) for number in range(len(stated))]
                if not isinstance(stated, list) or not all(isinstance(name, str) for name in stated):
                    raise InputError(f"{path}: expected a list of class names, or an object from index to name")
                return _unique(path, stated)
    return None


def _infos(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for name in INFO_FILES:
        if (folder / name).is_file():
            try:
                info = json.loads(_read_text(folder / name))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{folder / name} is not JSON: {error}") from None
            if isinstance(info, dict):
                yield folder / name, info


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None


def _unique(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise InputError(f"{path}: expected every class once, found {shorten(twice)} more than once")
    return tuple(names)


def _natural(path: str | Path) -> list[tuple[int, str]]:
    """Sort key: ``9.tar`` before ``10.tar``."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (-1, part) for part in parts]


def _check_complete(folder: Path, shards: Sequence[Path]) -> None:
    """Raise if the shard numbers have gaps, or if ``_info.json`` lists missing shards."""
    sets: dict[tuple[Path, str, str], dict[int, str]] = defaultdict(dict)
    for shard in shards:
        if number := NUMBER.search(shard.name):
            head, tail = shard.name[: number.start()], shard.name[number.end() :]
            sets[shard.parent, head, tail][int(number[0])] = number[0]
    missing = []
    for (_, head, tail), numbers in sets.items():
        first, last = min(numbers), max(numbers)
        if last - first < MOST_GAPS * len(numbers):  # otherwise they are dates or other numbers
            gaps = (str(gap).zfill(len(numbers[first])) for gap in range(first, last) if gap not in numbers)
            missing += [f"{head}{gap}{tail}" for gap in gaps]
    present = {shard.name for shard in shards}
    for _, info in _infos(folder):
        splits = info.get("splits")
        for split in splits.values() if isinstance(splits, dict) else ():
            listed = split.get("filenames") if isinstance(split, dict) else None
            names = {str(name) for name in listed} if isinstance(listed, list) else set()
            missing += sorted(names - present) if names & present else []
    if missing:
        raise InputError(
            f"{folder}: {len(set(missing)):,} shards are missing, the first is {missing[0]}; to use only these, "
            f"give a pattern, such as {folder}/train-{{000..146}}.tar"
        )
