"""What is known of a checkpoint: its accuracy by its record, its cost, and its recorded latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactnets.complexity import count
from compactnets.data import Preprocess
from compactnets.latency.results import row_threads
from compactnets.models.pretrained import locate
from compactnets.recorded import load_results
from compactnets.tasks.opening import open_model

# key of a record's `training` -> its name on a page, and the Hub's
METRICS = {
    "top1_percent": ("top-1", "accuracy"),
    "miou_percent": ("mean IoU", "mean_iou"),
    "voc07_percent": ("VOC07 mAP", "mean_average_precision"),
}
TRAINED = "trained by compactnets: "  # what a record's source begins with if the command follows


@dataclass(frozen=True)
class Latency:
    """A recorded time: one image, one thread, in milliseconds; ``record`` is its section in docs/results.md."""

    runtime: str
    milliseconds: float
    processor: str
    date: str
    record: str


@dataclass(frozen=True)
class Facts:
    """What is known of a checkpoint.

    Attributes:
        network: the network, in evaluation mode.
        record: its record, as JSON.
        size: channels, height and width of its input, if the record fixes them.
        macs: multiply-adds of one image, if ``size`` is known.
        params: elements of all parameters.
        bytes: of the weights' file.
    """

    network: Any
    record: dict[str, Any]
    size: tuple[int, int, int] | None
    macs: int | None
    params: int
    bytes: int
    latencies: tuple[Latency, ...]

    @property
    def task(self) -> str:
        """The network's task."""
        return str(self.record["task"])

    @property
    def data(self) -> str | None:
        """Name of the data that it was trained on; of a path on somebody's disk, its last part."""
        return data_of(self.record)

    @property
    def command(self) -> str | None:
        """The command that trained it, if its record has one."""
        return command_of(self.record)

    @property
    def accuracy(self) -> tuple[str, str, float] | None:
        """Name of the metric, the Hub's name, and the value in percent."""
        return accuracy_of(self.record)


def data_of(record: Mapping[str, Any]) -> str | None:
    """Return the name of the data of a record; of a path on somebody's disk, its last part."""
    data = record.get("training", {}).get("data")
    return None if data is None else Path(str(data)).name if Path(str(data)).is_absolute() else str(data)


def command_of(record: Mapping[str, Any]) -> str | None:
    """Return the command that trained the weights of a record, if it has one."""
    source = str(record["source"])
    return source.removeprefix(TRAINED) if source.startswith(TRAINED) else None


def accuracy_of(record: Mapping[str, Any]) -> tuple[str, str, float] | None:
    """Return the metric of a record, the Hub's name of it, and the value in percent."""
    training = record.get("training", {})
    for key, (name, hub) in METRICS.items():
        if isinstance(training.get(key), int | float):
            return name, hub, float(training[key])
    return None


def read_facts(checkpoint: str | Path) -> Facts:
    """Open a checkpoint of any task, and count it.

    Raises:
        InputError: it cannot be opened, or its weights do not fit.
    """
    model = open_model(checkpoint, "cpu")
    record = model.record.model_dump(mode="json")
    size = input_size(record)
    if size is None:
        macs, params = None, sum(parameter.numel() for parameter in model.network.parameters())
    else:
        macs, params = count(model.network, size)
    path = locate(checkpoint)
    latencies = () if macs is None else recorded_latencies({record["model"], str(checkpoint)}, macs, params)
    return Facts(model.network, record, size, macs, params, path.stat().st_size, latencies)


def input_size(record: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return channels, height and width of a network's input, if its record fixes them."""
    if "preprocess" in record:
        preprocess = Preprocess.from_dict(record["preprocess"])
        return (preprocess.channels, preprocess.size, preprocess.size)
    return (3, *record["size"]) if record.get("size") else None


def recorded_latencies(names: set[str], macs: int, params: int) -> tuple[Latency, ...]:
    """Return the recorded times of a network, the newest of each runtime, fastest first.

    Only rows with the same cost count: a network of the same name with other classes or another size is another one.
    """
    found: dict[str, Latency] = {}
    for name, results in load_results("latency").items():
        for row in results["rows"]:
            if row["network"] not in names or (row["macs"], row["params"]) != (macs, params):
                continue
            if row_threads(row, results) != 1 or row["input"][0] != 1:
                continue
            time = row["milliseconds"]["median"]
            each = Latency(row["format"], time, results["environment"]["processor"], results["date"], name)
            if each.runtime not in found or each.date > found[each.runtime].date:
                found[each.runtime] = each
    return tuple(sorted(found.values(), key=lambda each: each.milliseconds))
