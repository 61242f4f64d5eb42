"""Lists of the networks with their cost, the weights and the recipes."""

from __future__ import annotations

import hashlib
import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch

from compactnets.complexity import CONVENTION, count
from compactnets.console import Table, Tracker, stdout
from compactnets.errors import InputError, did_you_mean
from compactnets.hub.facts import Latency, accuracy_of, data_of, read_facts, recorded_latencies
from compactnets.models.peers import PEERS
from compactnets.models.pretrained import (
    AUTHORS,
    CLASSIFICATION,
    VARIABLE,
    Weights,
    authors_files,
    find_weights,
    left_out,
    own_folder,
)
from compactnets.models.registry import FAMILIES, accepted_arguments, create_model, default_arguments, list_models
from compactnets.papers.stated import stated_rows
from compactnets.training.recipe_files import list_recipes

SUFFIX = ".safetensors"
MENET = "https://github.com/clavichord93/MENet"
NO_LICENSE = "none"  # is stated by the MENet authors
SHORT = {"top-1": "top-1", "mean IoU": "mIoU", "VOC07 mAP": "mAP"}
TOLD = ("epochs", "seed", "commit", "date", "images", "init")  # of a record's training
WHAT = {
    "train": "Trained by",
    "measure": "Measure the accuracy",
    "convert": "Once you have the file, convert it (every key and shape is checked)",
    "use": "Use them",
}


@dataclass(frozen=True)
class ListedNetwork:
    """A network and its cost as its paper measures it: 224 x 224 and 1000 classes, or 32 x 32 and 10.

    ``macs`` and ``params`` are ``None`` if the library that builds it is not installed; ``note`` explains.
    """

    name: str
    family: str
    stem: str
    input_size: tuple[int, int, int]
    macs: int | None
    params: int | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def list_rows(pattern: str = "*") -> list[ListedNetwork]:
    """Build every network that matches ``pattern`` on the meta device and count its cost.

    Raises:
        InputError: no network matches.
    """
    names = list_models(pattern)
    if not names:
        accepted_arguments(pattern)  # raises, with the near matches
    return [_row(name) for name in Tracker(names, len(names), "counting")]


def _row(name: str) -> ListedNetwork:
    family = FAMILIES.get(name, "peer")
    note = PEERS[name].note if name in PEERS else ""
    arguments, size = default_arguments(name)
    try:
        with torch.device("meta"):
            model = create_model(name, **arguments).eval()
    except InputError as error:
        return ListedNetwork(name, family, arguments["stem"], size, None, None, str(error))
    macs, params = count(model, size)
    return ListedNetwork(name, family, arguments["stem"], size, macs, params, note)


def show(rows: Iterable[ListedNetwork]) -> None:
    """Print the networks as a table."""
    table = Table("network", "family", "input")
    table.add_figures("MACs (M)", "params (M)")
    for row in rows:
        cost = [f"{value / 1e6:.{digits}f}" if value else "-" for value, digits in ((row.macs, 1), (row.params, 2))]
        table.add_row(row.name, row.family, " x ".join(map(str, row.input_size)), *cost)
    stdout.print(table)
    stdout.print(CONVENTION)


@dataclass(frozen=True)
class ListedWeights:
    """Trained weights: of the package, of the user's folder, or known and not here.

    Attributes:
        name: ``NETWORK.TAG``.
        model: the network; of a detector or segmenter, its backbone.
        data: what they were trained on, if known.
        metric: ``top-1``, ``mean IoU`` or ``VOC07 mAP``, and ``percent`` its value, if known: by the record, or by the
            authors for weights that are not here.
        bytes: of the file, if known.
        where: ``shipped`` with the package, in the user's ``folder``, or to ``fetch``.
        path: the file, if it is here.
        source: the training command, the file that was converted, or the command that converts it.
    """

    name: str
    model: str
    task: str
    data: str | None
    metric: str | None
    percent: float | None
    bytes: int | None
    license: str
    where: Literal["shipped", "folder", "fetch"]
    path: str | None
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class WeightsDetails:
    """All that is known of weights.

    Attributes:
        sha256: of the file; of the authors' file if the weights are not here and it is known.
        classes: number of them.
        size: channels, height and width of the input, if the record fixes them.
        macs: multiply-adds of one image of that size.
        training: ``epochs``, ``seed``, ``commit``, ``date``, ``images`` (evaluated) and ``init`` (the weights that it
            started from), as far as the record has them.
        latencies: recorded times of one image on one thread, fastest first.
        commands: what to do -> its command: ``train``, ``measure``, ``use``; ``convert`` for weights that are not here.
    """

    weights: ListedWeights
    sha256: str | None
    classes: int
    size: tuple[int, int, int] | None
    macs: int | None
    params: int
    training: dict[str, Any]
    latencies: tuple[Latency, ...]
    commands: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, those of ``weights`` among them."""
        fields = asdict(self)
        return {**fields.pop("weights"), **fields}


def list_weights() -> list[ListedWeights]:
    """Return the weights of the package and of the user's folder, and the MENet authors' where they are missing."""
    rows = [_installed(weights) for weights in find_weights().values()]
    known = {row.name for row in rows}
    authors = (_absent(model) for model in authors_files())
    return [*rows, *(row for row in authors if row.name not in known)]


def _installed(weights: Weights) -> ListedWeights:
    accuracy = accuracy_of(weights.record)
    return ListedWeights(
        weights.name,
        weights.model,
        weights.task,
        data_of(weights.record),
        accuracy and accuracy[0],
        accuracy and accuracy[2],
        weights.path.stat().st_size,
        str(weights.record["license"]),
        "shipped" if weights.shipped else "folder",
        str(weights.path),
        str(weights.record["source"]),
    )


def _absent(model: str) -> ListedWeights:
    file, name = authors_files()[model], f"{model}.{AUTHORS}"
    (stated,) = (row for row in stated_rows("menet", "readme") if row.model == model)
    folder = own_folder()
    output = shlex.quote(str((Path("DIR") if folder is None else folder) / f"{name}{SUFFIX}"))
    how = f"compactnets convert {file['file']} --model {model} --output {output}"
    return ListedWeights(
        name, model, CLASSIFICATION, "ImageNet", "top-1", stated.top1, file.get("bytes"), NO_LICENSE, "fetch", None, how
    )


def describe_weights(name: str) -> WeightsDetails:
    """Return all that is known of weights.

    Raises:
        InputError: no such weights, or a file that does not fit its record.
    """
    rows = {row.name: row for row in list_weights()}
    if name not in rows:
        tags = [each for each in rows if each.startswith(f"{name}.")]
        hint = f"; {name} has {', '.join(tags)}" if tags else did_you_mean(name, rows)
        skipped = left_out().get(f"{name}{SUFFIX}")
        why = f": {own_folder()} has {name}{SUFFIX}, but {skipped}" if skipped else hint
        raise InputError(f"there are no weights {name!r}{why} (compactnets weights lists them)")
    row = rows[name]
    return describe_authors(row.model) if row.where == "fetch" else _describe(row)


def describe_authors(model: str) -> WeightsDetails:
    """Return what is known of the MENet authors' checkpoint of a network, of :func:`authors_files`."""
    row, cost = _absent(model), _row(model)
    assert cost.macs is not None  # MENet needs no other library
    assert cost.params is not None
    latencies = recorded_latencies({model}, cost.macs, cost.params)
    use = {"convert": row.source, "use": _usage(row)}
    sha256 = authors_files()[model].get("sha256")
    return WeightsDetails(row, sha256, 1000, cost.input_size, cost.macs, cost.params, {}, latencies, use)


def _describe(row: ListedWeights) -> WeightsDetails:
    """Return what is known of weights that are here."""
    name = row.name
    facts = read_facts(name)
    training = {key: facts.record["training"].get(key) for key in TOLD}
    data = str(facts.record["training"].get("data"))  # as a path, unlike row.data
    commands = {
        "train": facts.command,
        "measure": facts.data and f"compactnets eval --weights {name} --data {shlex.quote(data)}",
        "use": _usage(row),
    }
    return WeightsDetails(
        row,
        hashlib.sha256(Path(str(row.path)).read_bytes()).hexdigest(),
        len(facts.record["class_names"]),
        facts.size,
        facts.macs,
        facts.params,
        {key: value for key, value in training.items() if value is not None},
        facts.latencies,
        {key: command for key, command in commands.items() if command},
    )


def _usage(row: ListedWeights) -> str:
    return f"compactnets predict --weights {row.name} photo.jpg"


def show_weights(rows: Iterable[ListedWeights]) -> None:
    """Print the weights as tables, one for each place."""
    found = list(rows)
    for where, title in _places().items():
        here = [row for row in found if row.where == where]
        if not here and where != "folder":
            continue
        stdout.print(title)
        if here:
            stdout.print(_weights_table(here))
        if where == "folder":
            for name, why in left_out().items():
                stdout.print(f"left out: {name}: {why}")
        stdout.print("")
    stdout.print("compactnets weights NAME has the details, and how to get and to use them.")


def _places() -> dict[str, str]:
    """Return the title of each place."""
    folder = own_folder()
    if folder is None:
        own = f"In a folder of yours: none, ${VARIABLE} is not set"
    elif not folder.is_dir():
        own = f"In {folder} (${VARIABLE}): there is no such folder"
    else:
        own = f"In {folder} (${VARIABLE})"
    return {
        "shipped": "Shipped with compactnets",
        "folder": own,
        "fetch": "To be fetched; the MENet authors state the accuracy, and no licence",
    }


def _weights_table(rows: Sequence[ListedWeights]) -> Table:
    """Return a table; the unit of the accuracy is in the heading if all have the same."""
    units = {SHORT[row.metric] for row in rows if row.metric is not None}
    table = Table("name", "task", "data")
    table.add_figures(f"{units.pop()}, %" if len(units) == 1 else "accuracy, %", "MB")
    table.add_text("licence")
    for row in rows:
        percent = "-" if row.percent is None else f"{row.percent:.2f}"
        unit = f" {SHORT[row.metric]}" if row.metric is not None and units else ""
        size = "?" if row.bytes is None else f"{row.bytes / 1e6:.1f}"
        table.add_row(row.name, row.task, row.data or "-", percent + unit, size, row.license)
    return table


def show_details(details: WeightsDetails) -> None:
    """Print all that is known of weights: facts, then commands, none of them folded."""
    row, told = details.weights, details.training
    whole = "unknown" if row.bytes is None else f"{row.bytes:,}"
    size = "" if details.size is None else f" at {details.size[1]} x {details.size[2]}"
    facts = {
        "where": {"shipped": "shipped with compactnets", "folder": f"${VARIABLE}", "fetch": "to be fetched"}[row.where],
        "file": row.path or f"{authors_files()[row.model]['file']}, of {MENET}",
        "bytes": whole,
        "sha256": details.sha256 or "unknown",
        "network": row.model,
        "task": f"{row.task}, {details.classes:,} classes",
        "data": row.data or "unknown",
        "accuracy": _accuracy(details),
        "cost": (f"{details.macs / 1e6:.1f} M multiply-adds{size}, " if details.macs else "")
        + f"{details.params:,} parameters",
        "training": ", ".join(f"{key} {told[key]}" for key in TOLD if key in told and key != "images"),
        "source": "" if row.where == "fetch" or "train" in details.commands else row.source,
        "licence": row.license,
    }
    stdout.print(row.name)
    for key, value in facts.items():
        if value:
            stdout.print(f"  {key:<10}{value}")
    for each in details.latencies:
        stdout.print(f"  {'latency':<10}{each.milliseconds:.2f} ms, {each.runtime}, 1 thread, {each.processor}")
    for what, command in details.commands.items():
        stdout.print(f"\n{WHAT[what]}:\n  {command}")
        if what == "convert" and own_folder() is None:
            stdout.print(
                f"with a folder of yours for DIR, and then, so that its name is found:\n  export {VARIABLE}=DIR"
            )
    if row.task == CLASSIFICATION and row.model in FAMILIES and row.where != "fetch":
        stdout.print(f'\nWith timm, after "import compactnets":\n  timm.create_model("{row.name}", pretrained=True)')


def _accuracy(details: WeightsDetails) -> str:
    row = details.weights
    if row.percent is None:
        return "unknown"
    if row.where == "fetch":
        return f"{row.percent:.2f} % {row.metric}, stated by its authors"
    images = details.training.get("images")
    return f"{row.percent:.2f} % {row.metric}" + (f" on {images:,} images" if isinstance(images, int) else "")


def recipe_rows() -> list[dict[str, str]]:
    """Return name and description (the leading comment) of every built-in recipe."""
    rows = []
    for name in list_recipes():
        text = (resources.files("compactnets") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        head = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
        lines = [line.removeprefix("#").strip() for line in head]
        rows.append({"name": name, "description": " ".join(lines)})
    return rows


def show_recipes(rows: Iterable[Mapping[str, str]]) -> None:
    """Print the recipes as a table."""
    table = Table("recipe", "what it is")
    table.padding = (0, 1, 1, 0)
    for row in rows:
        table.add_row(row["name"], row["description"])
    stdout.print(table)
