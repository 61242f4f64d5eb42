"""The tables that export and quantisation print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactnets.console import Table, stdout
from compactnets.deploy.record import LAYERS, ArtifactRecord, ExportedRecord, Verification


@dataclass(frozen=True)
class ExportReport:
    """An exported artifact of any task, and its folder.

    Attributes:
        record: what its ``artifact.json`` holds.
        output: its folder.
        print_it: prints both as text.
    """

    record: ExportedRecord
    output: Path
    print_it: Callable[[Any, Path], None]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {"output": str(self.output), **self.record.model_dump(mode="json")}

    def show(self) -> None:
        """Print what was written and how it was checked."""
        self.print_it(self.record, self.output)


def show(record: ArtifactRecord, output: Path) -> None:
    """Print what was written and how it was checked."""
    network, verification = record.network, record.verification
    shape = " x ".join("any" if side is None else str(side) for side in record.input)
    lines = [
        f"{network.model} -> {output / next(iter(record.files))}: {record.bytes / 1e6:.2f} MB, "
        f"{record.macs / 1e6:.1f} M MACs, {record.params / 1e6:.2f} M parameters",
        f"input {shape} float32, {len(network.class_names)} classes; weights: {record.precision}, {network.source}",
        *(f"{key.replace('_', ' ')}: {value}" for key, value in record.details.items()),
        f"compared with PyTorch on {verification.images}, tolerance {verification.tolerance:g}:"
        if verification.ran
        else f"not run: {verification.note}",
    ]
    for line in lines:
        stdout.print(line)
    if verification.ran:
        stdout.print(_checks(verification))


def _checks(verification: Verification) -> Table:
    table = Table()
    table.add_figures("batch", "pixels", "images", "largest difference", "of the largest logit", "same top-1")
    for check in verification.checks:
        table.add_row(
            str(check.batch),
            f"{check.size} x {check.size}",
            str(check.images),
            f"{check.max_difference:.1e}",
            f"{check.relative_difference:.1e}",
            f"{100 * check.top1_agreement:.0f} %",
        )
    return table


def show_quantized(record: ArtifactRecord, report: dict[str, Any], output: Path) -> None:
    """Print an int8 artifact's accuracy, latency and size against float."""
    show(record, output)
    compared, (plain, int8) = report["evaluation"], report["latency"]["rows"]
    table = Table("")
    table.add_figures("float32", "int8", "")
    images = compared["images"]
    shares = [100 * compared[key] / images for key in ("float_correct", "int8_correct")]
    table.add_row(
        f"top-1 of {images}", *(f"{share:.2f} %" for share in shares), f"{-compared['drop_points']:+.2f} points"
    )
    times = [row["milliseconds"] for row in (plain, int8)]
    table.add_row(
        "latency", *(f"{time['median']:.2f} ms" for time in times), f"{times[1]['median'] / times[0]['median']:.2f}x"
    )
    sizes = report["bytes"]
    table.add_row(
        "size", *(f"{size / 1e6:.2f} MB" for size in sizes.values()), f"{sizes['int8'] / sizes['float32']:.2f}x"
    )
    stdout.print(table)
    features = report["latency"]["environment"]["cpu_features"]
    int8_features = [name for name in features if "vnni" in name or "int8" in name or "dot" in name or "i8mm" in name]
    worst = sorted((row for row in report["layers"] if row["int8"]), key=lambda row: row["signal_to_noise_db"] or 999)[
        :3
    ]
    for line in (
        f"same best class on {100 * compared['agreement']:.1f} % of the images; the logits differ by "
        f"{compared['logits_error']:.3f} of their deviation",
        f"int8 instructions of this CPU: {', '.join(int8_features) or 'nothing'}",
        f"in float: {', '.join(report['kept_in_float']) or 'nothing'}",
        "least signal to noise: "
        + ", ".join(
            f"{row['layer']} ({row['signal_to_noise_db']:.1f} dB)" for row in worst if row["signal_to_noise_db"]
        ),
        f"every layer: {output / LAYERS}",
    ):
        stdout.print(line)
