"""The tables that export and quantisation print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactnets.console import Table, stdout
from compactnets.deploy.int8.comparison import Comparison
from compactnets.deploy.record import LAYERS, ExportedRecord, ImageArtifact

MEMORY = ("weight_bytes", "arena_bytes", "microcontroller")  # details of format c, shown as flash and RAM


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


def show(record: ImageArtifact, output: Path) -> None:
    """Print what was written and how it was checked."""
    network, verification = record.network, record.verification
    shape = " x ".join("any" if side is None else str(side) for side in record.input)
    lines = [
        f"{record.title} -> {output / next(iter(record.files))}: {record.bytes / 1e6:.2f} MB, "
        f"{record.macs / 1e6:.1f} M MACs, {record.params / 1e6:.2f} M parameters",
        f"input {shape} float32, {len(network.class_names)} classes; weights: {record.precision}, {network.source}",
        *record.notes(),
        *(f"{key.replace('_', ' ')}: {value}" for key, value in record.details.items() if key not in MEMORY),
        *_memory(record),
        f"compared with PyTorch on {verification.images}, tolerance {verification.tolerance:g}:"
        if verification.ran
        else f"not run: {verification.note}",
    ]
    for line in lines:
        stdout.print(line)
    if verification.ran:
        stdout.print(checks_table(record))


def _memory(record: ImageArtifact) -> list[str]:
    """Return what generated C takes in flash and RAM, as far as it is known."""
    if "arena_bytes" not in record.details:
        return []
    found = record.details.get("microcontroller")
    if found is None:
        return [
            f"flash: {record.details['weight_bytes']:,} bytes of weights, and the code (with --mcu it is counted)",
            f"RAM: {record.details['arena_bytes']:,} bytes of arena, and the caller's image and logits",
        ]
    return [
        f"{found['core']} ({found['compiler']} {' '.join(found['options'])}):",
        f"flash: {found['flash_bytes']:,} bytes, weights {found['weight_bytes']:,} and code {found['code_bytes']:,}",
        f"RAM: {found['ram_bytes']:,} bytes, arena {found['arena_bytes']:,}, 8-bit image {found['pixel_bytes']:,}"
        f"{'' if found['pixel_bytes'] else ' (in the arena)'}, "
        f"logits {found['output_bytes']:,} and stack {found['stack_bytes']:,}",
    ]


def checks_table(record: ImageArtifact) -> Table:
    """Return a row for each comparison with PyTorch."""
    table = Table()
    table.add_figures("batch", "pixels", "images", "largest difference", "of the largest logit", record.agreement)
    for check in record.verification.checks:
        height, width = (check.size, check.size) if isinstance(check.size, int) else check.size
        table.add_row(
            str(check.batch),
            f"{height} x {width}",
            str(check.images),
            f"{check.max_difference:.1e}",
            f"{check.relative_difference:.1e}",
            f"{100 * check.agreement:.{record.agreement_digits}f} %",
        )
    return table


def show_quantized(record: ImageArtifact, report: dict[str, Any], output: Path, compared: Comparison) -> None:
    """Print an int8 artifact's quality, latency and size against float."""
    show(record, output)
    plain, int8 = report["latency"]["rows"]
    table = Table("")
    table.add_figures("float32", "int8", "")
    table.add_row(
        f"{compared.measure} of {compared.images}",
        *(f"{percent:.2f} %" for percent in compared.percents),
        f"{-compared.drop:+.2f} points",
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
        compared.note,
        f"int8 instructions of this CPU: {', '.join(int8_features) or 'nothing'}",
        f"in float: {', '.join(report['kept_in_float']) or 'nothing'}",
        "least signal to noise: "
        + ", ".join(
            f"{row['layer']} ({row['signal_to_noise_db']:.1f} dB)" for row in worst if row["signal_to_noise_db"]
        ),
        f"every layer: {output / LAYERS}",
    ):
        stdout.print(line)
