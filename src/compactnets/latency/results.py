"""Results of a latency benchmark: file, table, plot, and changes since an earlier one."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compactnets.console import Table, stdout
from compactnets.errors import InputError
from compactnets.files import as_path, json_text, replace_text
from compactnets.pictures import save_figure
from compactnets.values import read_json

Results = dict[str, Any]
NEAR = 1.06  # ratio of two heights in the plot below which labels overlap
QUALITIES = {"top1_percent": "top-1, %", "miou_percent": "mIoU, %"}
COLUMNS = ("ms", "p10 to p90", "n", "limit, ms", "x limit", "MACs", "params", "file", "memory")


def show(results: Results) -> None:
    """Print environment and table, and changes if compared with earlier results."""
    environment, settings = results["environment"], results["settings"]
    versions = environment["versions"]
    threads, batches = (", ".join(map(str, counts)) for counts in (thread_counts(results), batch_sizes(results)))
    lines = [
        f"{environment['processor']}; {environment['system']}; torch {versions['torch']}",
        f"features: {' '.join(environment['cpu_features'])}",
        f"threads {threads}, batch {batches}, {settings['rounds']} turns of "
        f"{settings['calls']} calls; limit: a {settings['matrix']} x {settings['matrix']} matrix product at "
        f"{results['limit_gflops']:.0f} GFLOP/s",
    ]
    if core := results.get("core_gflops"):
        lines.append(f"multiply-adds in registers alone, the limit of the core: {core:.0f} GFLOP/s")
    for line in lines:
        stdout.print(line)
    table = Table("network", "format")
    throughput = batch_sizes(results) != [1]
    table.add_figures(*(["images/s"] if throughput else []), *COLUMNS)
    for row, form in zip(results["rows"], formats(results), strict=True):
        rate = [f"{row['images_per_second']:.0f}"] if throughput else []
        table.add_row(row["network"], form, *rate, *cells(row))
    stdout.print(table)
    for row, form in zip(results["rows"], formats(results), strict=True):
        if row.get("operators"):
            line = f"{row['network']} {form}: {describe_operators(row['operators'])}"
            stdout.print(line)
    for failure in results.get("failed", []):
        line = f"left out: {failure['network']} {failure['format']}: {failure['reason']}"
        stdout.print(line)
    for change in results.get("compared", []):
        stdout.print(describe_change(change))


def thread_counts(results: Results) -> list[int]:
    """Return the numbers of threads that were measured; results of before this was a choice have one."""
    found = results["settings"]["threads"]
    return [found] if isinstance(found, int) else list(found)


def batch_sizes(results: Results) -> list[int]:
    """Return the batches that were measured; results of before this was a choice have one."""
    found = results["settings"]["batch_size"]
    return [found] if isinstance(found, int) else list(found)


def row_threads(row: Mapping[str, Any], results: Results) -> int:
    """Return a row's number of threads."""
    return int(row.get("threads", thread_counts(results)[0]))


def formats(results: Results) -> list[str]:
    """Return each row's format as tables name it: with its batch and threads where the results have several."""
    batches, threads = len(batch_sizes(results)) > 1, len(thread_counts(results)) > 1
    return [
        row["format"]
        + (f", batch {row['input'][0]}" if batches else "")
        + (f", {row['threads']} thread{'s' if row['threads'] > 1 else ''}" if threads else "")
        for row in results["rows"]
    ]


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of one row, in the order of :data:`COLUMNS`."""
    time = row["milliseconds"]
    return [
        f"{time['median']:.2f}",
        f"{time['p10']:.2f} to {time['p90']:.2f}",
        str(time["n"]),
        f"{row['limit_milliseconds']:.2f}",
        f"{row['times_limit']:.2f}",
        f"{row['macs'] / 1e6:.1f} M",
        f"{row['params'] / 1e6:.2f} M",
        _megabytes(row["bytes"]),
        _megabytes(row["peak_memory_bytes"]),
    ]


def describe_operators(operators: Sequence[Mapping[str, Any]], kinds: int = 5) -> str:
    """Return the slowest kinds of operators with their share of the total time, and the rest combined."""
    total = sum(operator["milliseconds"] for operator in operators)
    parts = [
        f"{operator['kind']} {operator['milliseconds']:.2f} ms ({100 * operator['milliseconds'] / total:.0f} %)"
        for operator in operators[:kinds]
    ]
    rest = sum(operator["milliseconds"] for operator in operators[kinds:])
    return ", ".join(parts) + (f", others {rest:.2f} ms" if len(operators) > kinds else "")


def fastest(results: Results) -> dict[str, dict[str, Any]]:
    """Return each network's row with the fastest format."""
    best: dict[str, dict[str, Any]] = {}
    for row in results["rows"]:
        known = best.setdefault(row["network"], row)
        if row["milliseconds"]["median"] < known["milliseconds"]["median"]:
            best[row["network"]] = row
    return best


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f} MB"


def moved(before: Results, after: Results) -> list[dict[str, Any]]:
    """Compare the rows that two benchmarks share.

    ``beyond_noise`` is true if the ranges from the 10th to the 90th percentile do not overlap.
    """
    earlier = {_key(row, before): row["milliseconds"] for row in before["rows"]}
    changes = []
    for row, form in zip(after["rows"], formats(after), strict=True):
        if (old := earlier.get(_key(row, after))) is None:
            continue
        new = row["milliseconds"]
        changes.append(
            {
                "network": row["network"],
                "format": form,
                "before": old["median"],
                "after": new["median"],
                "ratio": new["median"] / old["median"],
                "beyond_noise": new["p10"] > old["p90"] or new["p90"] < old["p10"],
            }
        )
    return changes


def _key(row: Mapping[str, Any], results: Results) -> tuple[Any, ...]:
    return row["network"], row["format"], tuple(row["input"]), row_threads(row, results)


def describe_change(change: Mapping[str, Any]) -> str:
    """Return a change as one line of text."""
    verdict = "beyond noise" if change["beyond_noise"] else "within noise"
    return (
        f"{change['network']} {change['format']}: {change['before']:.2f} -> {change['after']:.2f} ms, "
        f"{change['ratio']:.2f}x, {verdict}"
    )


def write_results(results: Results, path: str | Path) -> None:
    """Write the results as JSON, with the command that produced them, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    path = as_path(path)
    text = json_text({"command": ["compactnets", *sys.argv[1:]], **results}, indent=1) + "\n"
    replace_text(path, text)


def read_results(path: str | Path) -> Results:
    """Read a file of :func:`write_results`.

    Raises:
        InputError: no such file, or other content.
    """
    path = as_path(path)
    try:
        results: Results = read_json(path, str(path))
        for row in results["rows"]:
            _key(row, results), [row["milliseconds"][key] for key in ("median", "p10", "p90")]
    except (KeyError, TypeError):
        raise InputError(f"{path} is not the result of 'compactnets benchmark --output'") from None
    return results


def draw(results: Results, path: str | Path) -> None:
    """Plot quality (or multiply-adds, if not known for every network) against latency, a series per format.

    Quality is the checkpoint's recorded one, on its own data set. With multiply-adds, the CPU's limit is drawn as
    well.

    Raises:
        InputError: an unknown picture format, or a file that cannot be written.
    """
    path = as_path(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    known = [key for key in QUALITIES if all(row.get(key) is not None for row in results["rows"])]
    accurate = known[0] if known else None

    def height(row: Mapping[str, Any]) -> float:
        return float(row[accurate] if accurate else row["macs"] / 1e6)

    labels = formats(results)
    for label in dict.fromkeys(labels):
        rows = sorted((row for row, form in zip(results["rows"], labels, strict=True) if form == label), key=height)
        middle = [row["milliseconds"]["median"] for row in rows]
        errors = [
            [value - row["milliseconds"]["p10"] for value, row in zip(middle, rows, strict=True)],
            [row["milliseconds"]["p90"] - value for value, row in zip(middle, rows, strict=True)],
        ]
        axes.errorbar(middle, [height(row) for row in rows], xerr=errors, marker="o", linestyle="", label=label)
    below = math.inf
    for row in sorted(fastest(results).values(), key=height, reverse=True):
        place = (row["milliseconds"]["median"], height(row))
        near = below / place[1] < NEAR  # the label above this one would cover it
        offset = (-4, -12 if near else 6)
        axes.annotate(row["network"], place, xytext=offset, textcoords="offset points", fontsize=7, ha="right")
        below = place[1]
    if accurate:
        axes.set(ylabel=QUALITIES[accurate])
    else:
        span = sorted({(row["limit_milliseconds"], row["macs"] / 1e6) for row in results["rows"]})
        axes.plot(*zip(*span, strict=True), color="grey", linestyle="--", label="limit")
        axes.set(yscale="log", ylabel="multiply-adds, M")
    axes.set(xscale="log", xlabel="milliseconds, median with p10 to p90")
    for axis in (axes.xaxis, axes.yaxis)[: 1 if accurate else 2]:
        axis.set_major_formatter(LogFormatter())  # 300, not 3 x 10^2
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    save_figure(figure, path)
