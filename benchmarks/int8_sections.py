"""The sections of docs/results.md on int8: exports, microcontrollers, and the ways to quantise.

benchmarks/page.py puts them together.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from tables import head, line  # beside this file

INT8_COLUMNS = (
    "network", "method", "format", "images", "float top-1", "int8 top-1", "points lost", "same class",
    "error of the logits", "float, ms", "int8, ms", "int8 / float", "size, int8 / float", "kept in float"
)  # fmt: skip
METHOD_COLUMNS = (
    "method", "runtime", "points lost: mean", "least and most", "error of the logits", "seconds", "MB", "ms", "of float"
)  # fmt: skip
CORE_COLUMNS = (
    "network", "classes", "side, pixels", "flash, bytes", "weights", "code", "RAM, bytes", "arena", "stack",
    "in the emulator"
)  # fmt: skip


def exports(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return one section for all results of ``compactnets quantize``, copies of its ``quantization.json``."""
    if not records:
        return []
    timed = [record["latency"] for record in records]
    environments = {
        f"{each['environment']['processor']} ({' '.join(each['environment']['cpu_features'])}), commit "
        f"{each['commit']}, {each['date']}" + (f" ({record['note']})" if record.get("note") else "")
        for record, each in zip(records, timed, strict=True)
    }
    commands = "\n".join(" ".join(record["command"]) for record in records)
    return [
        f"## int8\n\n```sh\n{commands}\n```\n\n{'; '.join(sorted(environments))}. Calibration images are excluded from "
        "the evaluation; latency is the median with the 10th and 90th percentile, float and int8 measured in turns."
        f"\n\n{head(INT8_COLUMNS)}" + "".join(line(_int8_cells(record)) for record in records)
    ]


def _int8_cells(record: dict[str, Any]) -> list[str]:
    compared, sizes = record["evaluation"], record["bytes"]
    times = [row["milliseconds"] for row in record["latency"]["rows"]]
    shares = [100 * compared[key] / compared["images"] for key in ("float_correct", "int8_correct")]
    weights = Path(record["command"][2]).stem
    return [
        record["network"] if weights in ("best", "last") else weights,  # a name of weights, not a file of a run
        _how(record),
        record["format"],
        str(compared["images"]),
        *(f"{share:.2f} %" for share in shares),
        f"{compared['drop_points']:.2f}",
        f"{100 * compared['agreement']:.1f} %",
        f"{compared['logits_error']:.3f}",
        *(f"{time['median']:.2f} ({time['p10']:.2f} to {time['p90']:.2f})" for time in times),
        f"**{times[1]['median'] / times[0]['median']:.2f}**",
        f"{sizes['int8'] / 1e6:.2f} MB, **{sizes['int8'] / sizes['float32']:.2f}**",
        ", ".join(record["kept_in_float"]) or "none",
    ]


def _how(record: dict[str, Any]) -> str:
    if record.get("trained_for_int8"):
        return "trained (`--qat`)"
    left_out = [step for step in ("equalize", "rounding", "correction") if not record["settings"].get(step, True)]
    bits = record["settings"].get("weight_bits", 8)
    return f"after training, weights of {bits} bits{'; no ' if left_out else ''}{', '.join(left_out)}"


def microcontrollers(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return one section for all results of ``benchmarks/microcontroller.py``."""
    if not records:
        return []
    first = records[0]
    limits, row = first["limits"], first["rows"][0]
    commands = "\n".join(shlex.join(record["command"]) for record in records)
    commits = "; ".join(sorted({f"commit {record['commit']}, {record['date']}" for record in records}))
    rows = [_core_cells(record, row) for record in records for row in record["rows"]]
    return [
        f"## Microcontrollers\n\n```sh\n{commands}\n```\n\nint8 in C for {row['core']}, {row['compiler']} "
        f"`{' '.join(row['options'])}`; {commits}. RAM is that of `NAME_run_pixels`: arena (with the 8-bit image), "
        f"logits and stack. Firmware is linked with {limits['flash_bytes']:,} bytes of flash and "
        f"{limits['ram_bytes']:,} of RAM, "
        f"{limits['stack_bytes']:,} of these for the stack, and run by {first['emulator']} as {first['board']}: all "
        "bits of the logits must be those of the machine that made it. Times are not measured.\n\n"
        f"{head(CORE_COLUMNS)}" + "".join(map(line, rows))
    ]


def _core_cells(record: dict[str, Any], row: dict[str, Any]) -> list[str]:
    parts = ("flash_bytes", "weight_bytes", "code_bytes", "ram_bytes", "arena_bytes", "stack_bytes")
    fits = (
        f"same bits, {row['used_stack_bytes']:,} bytes of stack used" if row["complaint"] is None else row["complaint"]
    )
    return [record["network"], record["classes"], row["size"], *(f"{row[part]:,}" for part in parts), fits]


SIDE_BY_SIDE = ("ours", "ours (c)", "ours (openvino)", "nncf", "nncf (openvino)", "onnxruntime, percentile")


def ways(records: dict[str, dict[str, Any]]) -> list[str]:
    """Return the sections for all results of ``benchmarks/int8_methods.py``: side by side, then each."""
    return _side_by_side(records) + [_methods(name, record) for name, record in records.items()]


def _side_by_side(records: dict[str, dict[str, Any]]) -> list[str]:
    """Return one section with the points that each way to int8 loses on every network."""
    if not records:
        return []
    rows = []
    for name, record in records.items():
        found = {row["method"]: [draw["drop_points"] for draw in row["draws"]] for row in record["rows"]}
        draws = record["rows"][0]["draws"]
        percent = 100 * mean(draw["float_correct"] / draw["images"] for draw in draws)
        lost = [found.get(each) for each in SIDE_BY_SIDE]
        ranges = [f"{mean(drops):+.2f} ({min(drops):+.2f} to {max(drops):+.2f})" if drops else "" for drops in lost]
        rows.append(line([name, f"{percent:.2f} %", len(draws), f"{draws[0]['images']:,}", *ranges]))
    columns = ("network and data", "float top-1", "draws", "images", *SIDE_BY_SIDE)
    return [
        "## Ways to int8, side by side\n\nPoints of top-1 lost, mean over draws of the calibration images (least to "
        "most); a negative number is a gain. `ours` is `quantize` in ONNX Runtime, nothing stays in float. "
        f"`fresh` networks were trained for this table for three or four short epochs.\n\n{head(columns)}"
        + "".join(rows)
    ]


CONTROLLED = ", but what NNCF's accuracy control puts back"


def _methods(name: str, record: dict[str, Any]) -> str:
    environment, draws = record["environment"], record["rows"][0]["draws"]
    times = "1 draw" if len(draws) == 1 else f"{len(draws)} draws"
    return (
        f"## Ways to int8: {name}\n\n```sh\n{shlex.join(record['command'])}\n```\n\n{environment['processor']}, "
        f"{environment['threads']} thread; commit {record['commit']}, {record['date']}. {record['network']}, "
        f"`{record['weights']}`: {times} of {record['calibration_images']} images of {record['data']} to "
        f"calibrate, {draws[0]['images']:,} others to judge, of which float has "
        f"{_range([draw['float_correct'] for draw in draws])} right. Nothing stays in float"
        f"{CONTROLLED if 'control' in str(record['rows']) else ''}.\n\n{head(METHOD_COLUMNS)}"
        + "".join(line(_method_cells(row)) for row in record["rows"])
    )


def _method_cells(row: dict[str, Any]) -> list[str]:
    drops, seconds = ([draw[key] for draw in row["draws"]] for key in ("drop_points", "seconds"))
    return [
        row["method"],
        row["format"],
        f"{mean(drops):+.2f}",
        f"{min(drops):+.2f} to {max(drops):+.2f}",
        f"{median(draw['logits_error'] for draw in row['draws']):.3f}",
        f"{median(seconds):.0f}",
        f"{median(draw['bytes'] for draw in row['draws']) / 1e6:.2f}",
        *_method_times([draw["milliseconds"] for draw in row["draws"] if "milliseconds" in draw]),
    ]


def _method_times(times: Sequence[dict[str, float]]) -> list[str]:
    """Return the latency of int8, and its ratio to float's; nothing where it was not measured."""
    if not times:
        return ["", ""]
    ratio = median(each["int8"] / each["float32"] for each in times)
    return [f"{median(each['int8'] for each in times):.2f}", f"{ratio:.2f}x"]


def _range(values: Sequence[int]) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"
