"""Predictions of any number of images in Parquet files, the parts, which a killed run resumes.

The stream of files is cut into chunks of equal length, and chunk n becomes part n. A part is written completely or not
at all, and has a digest of the names of its files: a later run compares it with its own chunk n, and computes only the
parts that are missing. So no image is lost and none is there twice.

The folder is a Parquet data set: pyarrow, pandas, DuckDB and Spark read ``*.parquet`` and pass over names that begin
with ``_``: the record of the command, and the list of images that could not be used.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compactnets.console import say, stdout
from compactnets.data.inputs import Picture
from compactnets.errors import InputError
from compactnets.files import as_bytes, json_text, replace_bytes, replace_csv, replace_text
from compactnets.folders import check_folder, entries
from compactnets.locks import own_file
from compactnets.stopping import stoppable
from compactnets.tasks.contract import Prediction
from compactnets.values import read_json

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

File = str | Picture
PART_SIZE = 10_000  # files of a part: what a killed run loses at most
ROW_GROUP = 20_000  # rows held before they are encoded
TOLD = 10  # unusable images that are reported one by one
KEY = b"compactnets"  # of the facts in a part's metadata
OPTION = "--parquet"
RECORDS = "_predict*.json"


@dataclass(frozen=True)
class Shard:
    """One of ``count`` equal shares of the files: every ``count``-th, from the ``number``-th on."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``"3/8"``.

        Raises:
            InputError: another text, or a number outside 1 to the count.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"--shard must be I/N with I from 1 to N, such as 3/8, found {text!r}")
        return cls(int(found[1]), int(found[2]))

    def of(self, files: Iterable[File]) -> Iterator[File]:
        """Yield the shard's files."""
        return itertools.islice(files, self.number - 1, None, self.count)

    @property
    def ending(self) -> str:
        """What its files have in their names; nothing where there is one shard."""
        return "" if self.count == 1 else f"-{self.number}-of-{self.count}"


@dataclass(frozen=True)
class PartFacts:
    """What a part says of itself: its files, a digest of their names, its pictures, and how many were unusable."""

    files: int
    digest: str
    images: int
    failed: int


@dataclass(frozen=True)
class Written:
    """What a folder of parts holds.

    Attributes:
        folder: the folder.
        images: images and video frames, also unusable ones.
        failed: those that could not be used; ``errors`` lists them.
        parts: files of this shard.
        kept: of these, the parts that an earlier run had written.
        errors: path of the list, if there is one.
        seconds: duration of this run.
    """

    folder: str
    images: int
    failed: int
    parts: int
    kept: int
    errors: str | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return asdict(self)

    def show(self) -> None:
        """Print it as text."""
        kept = f", {self.kept:,} of them from before" if self.kept else ""
        stdout.print(f"{self.images:,} images in {self.parts:,} parts in {self.folder}{kept}")


def write_parts(
    predict: Callable[[Sequence[File]], Iterable[Prediction]],
    files: Iterable[File],
    folder: Path,
    settings: Mapping[str, Any],
    columns: Mapping[str, type],
    *,
    part_size: int = PART_SIZE,
    shard: Shard | None = None,
) -> Written:
    """Write a row for each result of the files to ``folder``, or the missing parts of them.

    At any time, the names of one part's files, its encoded rows, and :data:`ROW_GROUP` rows are in memory.

    Args:
        predict: returns the predictions for some files, in order.
        files: in the same order at every call.
        settings: what the rows depend on; a folder has rows of the same settings only.
        columns: name and type (``str``, ``int``, ``float``) of each column; two are ``image`` and ``error``.
        part_size: files of a part.

    Raises:
        InputError: a folder that cannot be written or has other predictions, or files that are not those of a part.
    """
    shard, start = shard or Shard(), time.perf_counter()
    if part_size < 1:
        raise InputError(f"--part-size must be at least 1, found {part_size}")
    check_folder(folder, OPTION)
    record = folder / f"_predict{shard.ending}.json"
    described = {**settings, "columns": list(columns), "part_size": part_size, "shards": shard.count}
    described = json.loads(as_bytes(json_text(described)))
    with own_file(record), stoppable():
        for partial in folder.glob(f".part{shard.ending}-*.partial"):  # of a killed run
            partial.unlink(missing_ok=True)
        _claim(folder, record, described)
        found: list[PartFacts] = []
        kept = 0
        unusable = _Unusable()
        for number, chunk in enumerate(_chunks(shard.of(files), part_size)):
            path, digest = folder / _part_name(shard, number), _digest(chunk)
            if path.exists():
                found.append(_check(path, digest, len(chunk)))
                kept += 1
                continue
            begin = time.perf_counter()
            facts = _write(path, unusable.watch(predict(chunk)), columns, len(chunk), digest)
            found.append(facts)
            rate = facts.images / (time.perf_counter() - begin)
            say(f"{path.name}: {sum(each.images for each in found):,} images so far, {rate:,.0f} a second")
        _check_end(folder, shard, len(found))
        images, failed = (sum(getattr(each, name) for each in found) for name in ("images", "failed"))
        errors = folder / f"_errors{shard.ending}.csv"
        if failed:
            paths = [folder / _part_name(shard, number) for number, each in enumerate(found) if each.failed]
            replace_csv(errors, ("image", "error"), (row for path in paths for row in _errors_of(path)))
        else:
            errors.unlink(missing_ok=True)
        result = {"images": images, "failed": failed, "parts": len(found)}
        replace_text(record, json_text({**described, "finished": result}, indent=1) + "\n")
    told = str(errors) if failed else None
    return Written(str(folder), images, failed, len(found), kept, told, time.perf_counter() - start)


class _Unusable:
    """Reports the first unusable images, and counts on in silence: a million lines help nobody."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        for prediction in predictions:
            if prediction.error:
                self.count += 1
                if self.count <= TOLD:
                    say(f"compactnets: error: {prediction.error}")
                elif self.count == TOLD + 1:
                    say("further images that cannot be used are only listed")
            yield prediction


def _chunks(files: Iterator[File], size: int) -> Iterator[list[File]]:
    while chunk := list(itertools.islice(files, size)):
        yield chunk


def _part_name(shard: Shard, number: int) -> str:
    return f"part{shard.ending}-{number:05d}.parquet"


def _digest(chunk: Iterable[File]) -> str:
    """Return a digest of the files' names, in order."""
    total = hashlib.sha256()
    for file in chunk:
        total.update(as_bytes(file.path if isinstance(file, Picture) else file) + b"\0")
    return total.hexdigest()


def _claim(folder: Path, record: Path, described: Mapping[str, Any]) -> None:
    """Write the record, unless the folder has it.

    Raises:
        InputError: it has predictions of another command, or Parquet files of other programs.
    """
    known = sorted(folder.glob(RECORDS))
    for path in known:
        found = read_json(path, str(path))
        found = found if isinstance(found, dict) else {}
        for key, value in described.items():
            if found.get(key) != value:
                raise InputError(
                    f"{folder} has predictions of another command, whose {key} is {_short(found.get(key))}, not "
                    f"{_short(value)}: choose another {OPTION}"
                )
    if not known and (others := sorted(name for name in entries(folder) if name.endswith(".parquet"))):
        raise InputError(
            f"{folder} has Parquet files that predict did not write ({others[0]}): choose another {OPTION}"
        )
    if record not in known:
        replace_text(record, json_text(described, indent=1) + "\n")


def _short(value: Any) -> str:
    text = json_text(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check(path: Path, digest: str, files: int) -> PartFacts:
    """Return the facts of a part.

    Raises:
        InputError: it cannot be read, or is of other files.
    """
    from pyarrow import parquet

    try:
        facts = PartFacts(**json.loads((parquet.read_metadata(path).metadata or {})[KEY]))
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are OSError and ValueError
        told = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is not a part that predict wrote ({told}): remove it to compute it again") from None
    if (facts.files, facts.digest) != (files, digest):
        raise InputError(
            f"{path} has {facts.files:,} files that are not those found now, {files:,}: the images have changed since; "
            f"remove the part to compute it again, or choose another {OPTION}"
        )
    return facts


def _check_end(folder: Path, shard: Shard, parts: int) -> None:
    """Raise if there are parts after the last.

    Raises:
        InputError: there were more files before.
    """
    pattern = re.compile(rf"part{re.escape(shard.ending)}-(\d{{5,}})\.parquet")
    numbers = (found for name in sorted(entries(folder)) if (found := pattern.fullmatch(name)))
    if extra := [found[0] for found in numbers if int(found[1]) >= parts]:
        raise InputError(
            f"{folder / extra[0]} is of files that are not found now: the images have changed since; remove the part, "
            f"or choose another {OPTION}"
        )


def _write(
    path: Path, predictions: Iterable[Prediction], columns: Mapping[str, type], files: int, digest: str
) -> PartFacts:
    """Write a part.

    Raises:
        InputError: the file cannot be written; nothing is left of it.
    """
    import pyarrow as pa
    from pyarrow import parquet

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    buffer, rows, images, failed = io.BytesIO(), list[Sequence[Any]](), 0, 0
    with parquet.ParquetWriter(buffer, schema) as writer:
        for prediction in predictions:
            rows.extend(prediction.rows())
            images, failed = images + 1, failed + bool(prediction.error)
            if len(rows) >= ROW_GROUP:
                _flush(writer, schema, rows)
        _flush(writer, schema, rows)
        facts = PartFacts(files, digest, images, failed)
        writer.add_key_value_metadata({KEY: json_text(asdict(facts))})
    replace_bytes(path, buffer.getbuffer())
    return facts


def _flush(writer: parquet.ParquetWriter, schema: pa.Schema, rows: list[Sequence[Any]]) -> None:
    """Encode the rows as a group, and forget them."""
    import pyarrow as pa

    if rows:
        values = zip(*rows, strict=True)
        arrays = [pa.array(map(_plain, column), field.type) for column, field in zip(values, schema, strict=True)]
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        rows.clear()


def _plain(value: Any) -> Any:
    """Return a text that is UTF-8: a name that is not is written as in CSV."""
    return as_bytes(value).decode() if isinstance(value, str) else value


def _errors_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the unusable images of a part, with the reason."""
    import pyarrow.compute as pc
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["image", "error"], filters=pc.field("error").is_valid())
    yield from zip(table["image"].to_pylist(), table["error"].to_pylist(), strict=True)
