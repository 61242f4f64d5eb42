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
    "map_percent": ("mAP of the labels", "mean_average_precision"),
    "miou_percent": ("mean IoU", "mean_iou"),
    "voc07_percent": ("VOC07 mAP", "mean_average_precision"),
}
ROUNDING = 0.1  # percent: how far two evaluations of the same weights on the same images may be apart
TRAINED = "trained by compactnets: "  # what a record's source begins with if the command follows


@dataclass(frozen=True)
class Latency:
    """A recorded time: one image, one thread, in milliseconds; ``record`` is its section in docs/results.md.

    ``bytes`` are those of the export; eager has none.
    """

    runtime: str
    milliseconds: float
    bytes: int | None
    processor: str
    date: str
    record: str


@dataclass(frozen=True)
class Int8:
    """A recorded int8 export beside the same weights in float: one image, one thread.

    Attributes:
        images: that were evaluated, of ``data``, in float and in int8.
        percent: top-1 in int8.
        drop_points: points of it lost.
    """

    runtime: str
    images: int
    data: str
    percent: float
    drop_points: float
    float_bytes: int
    int8_bytes: int
    float_milliseconds: float
    int8_milliseconds: float
    processor: str
    date: str


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
    """Return the recorded times of a network in float, the newest of each runtime, fastest first.

    Only rows with the same cost count: a network of the same name with other classes or another size is another one.
    Of the same day, the record with more runtimes comes first: its times were measured in turns.
    """
    found: dict[str, tuple[tuple[str, int], Latency]] = {}
    measured = [(name, results) for name, results in load_results("latency").items()]
    measured += [("int8", {**record["latency"], "rows": record["latency"]["rows"][:1]}) for record in _int8_records()]
    for name, results in measured:
        rows = [
            row
            for row in results["rows"]
            if row["network"] in names
            and (row["macs"], row["params"]) == (macs, params)
            and row_threads(row, results) == 1
            and row["input"][0] == 1
        ]
        rank = (results["date"], len(rows))
        for row in rows:
            time, processor = row["milliseconds"]["median"], results["environment"]["processor"]
            each = Latency(row["format"], time, row["bytes"], processor, results["date"], name)
            if each.runtime not in found or rank > found[each.runtime][0]:
                found[each.runtime] = (rank, each)
    return tuple(sorted((each for _, each in found.values()), key=lambda each: each.milliseconds))


def recorded_int8(names: set[str], macs: int, params: int, training: Mapping[str, Any]) -> tuple[Int8, ...]:
    """Return the recorded int8 exports of weights, as ``quantize`` makes them by default, by runtime.

    Args:
        names: of the weights' file, without its suffix.
        macs, params: of the network: others of the same name do not count.
        training: of the weights' record. A result on as many images with another accuracy is that of other weights.
    """
    found = {}
    for record in _int8_records():
        compared, (plain, small) = record["evaluation"], record["latency"]["rows"]
        if "float_correct" not in compared:
            continue  # of another task
        percent = 100 * compared["float_correct"] / compared["images"]
        weights = record.get("weights") or Path(record["command"][2]).name.removesuffix(".safetensors")
        if weights not in names or (
            plain["macs"],
            plain["params"],
        ) != (macs, params):
            continue
        if compared["images"] == training.get("images") and abs(percent - training["top1_percent"]) > ROUNDING:
            continue
        found[record["format"]] = Int8(
            record["format"],
            compared["images"],
            Path(compared["source"]).name,
            100 * compared["int8_correct"] / compared["images"],
            compared["drop_points"],
            record["bytes"]["float32"],
            record["bytes"]["int8"],
            plain["milliseconds"]["median"],
            small["milliseconds"]["median"],
            record["latency"]["environment"]["processor"],
            record["latency"]["date"],
        )
    return tuple(found[runtime] for runtime in sorted(found))


def _int8_records() -> list[dict[str, Any]]:
    """Return the results of ``quantize`` without options that turn parts of it off, and without training for int8."""
    return [
        record
        for record in load_results("int8").values()
        if record["trained_for_int8"] is None and not any(word.startswith("--no-") for word in record["command"])
    ]
