"""What a person reads of an artifact."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from compactnets.console import stdout
from compactnets.deploy.record import ArtifactRecord, Verification


def show(record: ArtifactRecord, output: Path) -> None:
    """Print what was written and how it was checked."""
    network, verification = record.network, record.verification
    shape = " x ".join("any" if side is None else str(side) for side in record.input)
    lines = [
        f"{network.model} -> {output / next(iter(record.files))}: {record.bytes / 1e6:.2f} MB, "
        f"{record.macs / 1e6:.1f} M MACs, {record.params / 1e6:.2f} M parameters",
        f"input {shape} {record.precision}, {len(network.class_names)} classes; weights: {network.source}",
        *(f"{key.replace('_', ' ')}: {value}" for key, value in record.details.items()),
        f"compared with PyTorch on {verification.images}, tolerance {verification.tolerance:g}:"
        if verification.ran
        else f"not run: {verification.note}",
    ]
    for line in lines:
        stdout.print(line, highlight=False, markup=False, soft_wrap=True)
    if verification.ran:
        stdout.print(_checks(verification))


def _checks(verification: Verification) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("batch", "pixels", "images", "largest difference", "of the largest logit", "same top-1"):
        table.add_column(heading, justify="right")
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
