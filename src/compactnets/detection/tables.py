"""The tables that a detector's evaluation and export print."""

from __future__ import annotations

from pathlib import Path

from compactnets.console import Table, stdout
from compactnets.detection.deploy.artifact import DetectorArtifact
from compactnets.detection.metrics import METRIC_TITLES, ClassScores, DetectionScores

FEW_CLASSES = 10  # up to this many, a confusion matrix is readable


def show(scores: DetectionScores, seconds: float, title: str) -> None:
    """Print the average precision of every class, and the means."""
    with_coco = scores.coco is not None
    columns = ["VOC07 AP", "VOC10 AP", *(["COCO AP"] if with_coco else [])]
    table = Table("class", title=title, lines=True)
    table.add_figures("objects", *columns, "precision", "recall", "from score")
    for row in scores.classes:
        figures = [row.voc07, row.voc10, *([row.coco] if with_coco else [])]
        table.add_row(row.name, f"{row.objects:,}", *(_percent(value) for value in figures), *_at_best(row))
    means = [scores.voc07, scores.voc10, *([scores.coco.ap] if scores.coco is not None else [])]
    table.add_section()
    objects = sum(row.objects for row in scores.classes)
    table.add_row("mean", f"{objects:,}", *(_percent(value) for value in means), "", "", "", style="bold")
    stdout.print(table)
    _show_confusion(scores)
    if scores.coco is not None:
        coco = scores.coco
        stdout.print(f"COCO: AP50 {_percent(coco.ap50)}, AP75 {_percent(coco.ap75)}")
    stdout.print(
        f"{METRIC_TITLES[scores.metric]}: {_percent(scores.headline)}; {scores.images:,} images, "
        f"{seconds / scores.images:.3f} s each",
    )


def _at_best(row: ClassScores) -> tuple[str, str, str]:
    score = "-" if row.threshold is None else f"{row.threshold:.2f}"
    return _percent(row.precision), _percent(row.recall), score


def _show_confusion(scores: DetectionScores) -> None:
    """Print the confusion matrix, or for many classes the most confused pairs."""
    names = [row.name for row in scores.classes]
    if len(names) <= FEW_CLASSES:
        table = Table("object", title=f"found as, IoU {scores.iou_threshold:g}, from these scores on", lines=True)
        table.add_figures(*names, "not found")
        for name, row in zip([*names, "no object"], scores.confusion.matrix, strict=True):
            cells = [f"{number:,}" for number in row]
            table.add_row(name, *(cells if name != "no object" or row[-1] else [*cells[:-1], ""]))
        stdout.print(table)
    elif pairs := scores.confusion.mistaken(names)[:FEW_CLASSES]:
        told = ", ".join(f"{one} found as {other} {number:,}" for one, other, number in pairs)
        stdout.print(f"confused most often: {told}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"


def show_artifact(artifact: DetectorArtifact, output: Path) -> None:
    """Print what was exported, its inputs and outputs, and how it was checked."""
    network, taken, checked = artifact.network, artifact.input, artifact.verification
    assert checked is not None
    size = "any size" if taken.size is None else f"{taken.size[0]} x {taken.size[1]} pixels"
    lines = [
        f"{network.detector} on {network.model} -> {output}: {', '.join(artifact.files)}, "
        f"{artifact.bytes / 1e6:.2f} MB, {artifact.cost['macs'] / 1e6:.1f} M MACs",
        f"input {size}, resize: {taken.resize}; {len(network.class_names)} classes; heads: {artifact.heads}; "
        f"weights: {artifact.precision}",
    ]
    for file, outputs in artifact.outputs.items():
        shapes = (f"{one.name} ({', '.join(map(str, one.shape))})" for one in outputs)
        lines.append(f"{file} gives {', '.join(shapes)}")
    lines.append(f"compared with PyTorch on {checked.images}, tolerance {checked.tolerance:g}:")
    if checked.float16_difference is not None:
        lines.append(
            f"with weights in float16, raw outputs differ by {checked.float16_difference:.1e} of their largest value, "
            f"tolerance {checked.float16_tolerance:g}"
        )
    if checked.heads_difference is not None:
        lines.append(f"largest difference of a raw output: {checked.heads_difference:.1e} of its largest value")
    for line in lines:
        stdout.print(line)
    table = Table()
    table.add_figures("score above", "detections", "scores differ by", "boxes by (pixels)", "left to rounding")
    for check in checked.checks:
        table.add_row(
            f"{check.score:.3f}",
            ", ".join(map(str, check.detections)),
            f"{check.max_score_difference:.1e}",
            f"{check.max_box_difference:.1e}",
            str(check.rounding),
        )
    stdout.print(table)
