"""Pascal VOC's evaluation once more, for the tests, written from the description of ``VOCevaldet.m`` and ``VOCap.m``.

It shares nothing with the package: plain loops over all images at once, the kit's whole pixel coordinates where the
last pixel belongs to the box and every length is one more than the difference, lists instead of tensors. What both have
in common is the reading of the rules by one author; the worked examples and COCO's evaluation, which the tests compare
as well, are by others.
"""

from __future__ import annotations

from tests.detection.scenes import Image


def overlap(one: list[float], other: list[float]) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0]) + 1
    along = min(one[3], other[3]) - max(one[1], other[1]) + 1
    if across <= 0 or along <= 0:
        return 0.0
    area_one = (one[2] - one[0] + 1) * (one[3] - one[1] + 1)
    area_other = (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
    return across * along / (area_one + area_other - across * along)


def inclusive(box: list[float]) -> list[float]:
    """From the package's coordinates to the kit's: the first pixel is 1, the last one belongs to the box."""
    return [box[0] + 1, box[1] + 1, box[2], box[3]]


def class_curve(images: list[Image], label: int, threshold: float = 0.5) -> tuple[list[float], list[float], int]:
    """Return recall and precision after each detection of a class, and the number of objects that count."""
    ground, positives, lines = [], 0, []
    for number, (found, there) in enumerate(images):
        rows = []
        for box, own, difficult in zip(there.boxes.tolist(), there.labels.tolist(), there.difficult, strict=True):
            if own == label:
                rows.append({"box": inclusive(box), "difficult": bool(difficult), "taken": False})
                positives += not difficult
        ground.append(rows)
        for box, own, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True):
            if own == label:
                lines.append((score, number, inclusive(box)))
    true = false = 0
    recall, precision = [], []
    for _, number, box in sorted(lines, key=lambda line: -line[0]):  # Python's sort is stable
        best, at = float("-inf"), None
        for row in ground[number]:
            shared = overlap(box, row["box"])
            if shared > best:
                best, at = shared, row
        if at is not None and best >= threshold:
            if not at["difficult"]:
                if at["taken"]:
                    false += 1
                else:
                    true += 1
                    at["taken"] = True
        else:
            false += 1
        recall.append(true / positives if positives else 0.0)
        precision.append(true / (true + false) if true + false else 0.0)
    return recall, precision, positives


def eleven_points(recall: list[float], precision: list[float]) -> float:
    total = 0.0
    for step in range(11):
        total += max((p for r, p in zip(recall, precision, strict=True) if r >= step * 0.1), default=0.0) / 11
    return total


def area(recall: list[float], precision: list[float]) -> float:
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))
