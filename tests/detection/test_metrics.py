"""The evaluator: order, several processes, what it refuses, what it reports."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
import torch

from compactnets.detection.matching import match
from compactnets.detection.metrics import DetectionEvaluator, Metric
from compactnets.detection.objects import no_objects
from compactnets.errors import InputError
from tests.detection.scenes import crowded, detections, evaluate, objects

HERE = [0, 0, 10, 10]
NAMES = ("a", "b", "c")


@pytest.mark.parametrize("metric", ["voc07", "voc10", "coco"])
def test_several_processes_give_what_one_gives(metric: Metric) -> None:
    """Also with equal scores, which the images' indices order, and with a process that has no image."""
    images = crowded(np.random.default_rng(3), 20)
    alone = evaluate(images, NAMES, metric=metric)
    together = DetectionEvaluator(NAMES, metric=metric)
    for rank in (2, 0, 1, 20):
        process = DetectionEvaluator(NAMES)
        for index in reversed(range(rank, 20, 3)) if rank < 20 else ():
            process.update(*images[index], index)
        sent = io.BytesIO()
        torch.save(process.state(), sent)  # as all_gather_object sends it
        together.add_state(torch.load(io.BytesIO(sent.getvalue()), weights_only=True))
    assert len(together) == 20
    assert together.compute() == alone
    for (index, found, there), image in zip(together, images, strict=True):
        for record, original in zip((found, there), image, strict=True):
            for field in dataclasses.fields(record):
                assert torch.equal(getattr(record, field.name), getattr(original, field.name)), index


def test_order_of_the_images_does_not_matter() -> None:
    """Without indices it matters where scores are equal only; here none are."""
    random = np.random.default_rng(5)
    unlike = iter(random.permutation(1000) / 1000)
    images = [
        (dataclasses.replace(found, scores=torch.tensor([next(unlike) for _ in range(len(found))])), there)
        for found, there in crowded(random, 20)
    ]
    assert evaluate(images, NAMES) == evaluate(images[::-1], NAMES)


def test_everything_is_reported() -> None:
    images = [
        (detections([HERE, HERE], [0.9, 0.2], [1, 1]), objects([HERE, HERE], [1, 0], difficult=[False, True])),
        (detections([], []), no_objects()),
    ]
    report = json.loads(json.dumps(evaluate(images, NAMES, metric="coco").to_dict(), allow_nan=False))
    assert report["headline"] == pytest.approx(100)
    assert report["unit"] == "percent"
    assert (report["metric"], report["images"], report["iou_threshold"]) == ("coco", 2, 0.5)
    assert report["coco"]["ap50"] == report["voc07"] == pytest.approx(100)
    assert report["coco"]["ap_large"] is None
    assert [row["name"] for row in report["classes"]] == list(NAMES)
    assert [row["objects"] for row in report["classes"]] == [0, 1, 0]
    assert [row["ignored"] for row in report["classes"]] == [1, 0, 0]
    assert [row["detections"] for row in report["classes"]] == [0, 2, 0]
    assert [row["voc10"] for row in report["classes"]] == [None, pytest.approx(100), None]


def test_headline_is_that_of_the_metric() -> None:
    images = crowded(np.random.default_rng(1), 10)
    scores = {metric: evaluate(images, NAMES, metric=metric) for metric in ("voc07", "voc10", "coco")}
    assert scores["voc07"].headline == scores["voc10"].voc07 == scores["coco"].voc07
    assert scores["voc10"].headline == scores["voc07"].voc10
    assert len({result.headline for result in scores.values()}) == 3
    assert scores["voc07"].coco is None


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="unknown metric 'voc2007', known: voc07, voc10, coco; did you mean 'voc07'"):
        DetectionEvaluator(NAMES, metric="voc2007")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="iou_threshold .*found 50"):
        DetectionEvaluator(NAMES, iou_threshold=50)
    evaluator = DetectionEvaluator(NAMES)
    with pytest.raises(InputError, match="no image was evaluated"):
        evaluator.compute()
    fine, there = detections([HERE], [0.5]), objects([HERE])
    evaluator.update(fine, there, 4)
    with pytest.raises(InputError, match="image 4 is evaluated twice"):
        evaluator.update(fine, there, 4)
    with pytest.raises(InputError, match="image 4 is evaluated twice"):
        evaluator.add_state(evaluator.state())
    with pytest.raises(InputError, match="detections .*2 to 3.* 3 class names"):
        evaluator.update(detections([HERE, HERE], [0.5, 0.5], [2, 3]), there)
    with pytest.raises(InputError, match="objects .*-1 to -1"):
        evaluator.update(fine, objects([HERE], [-1]))
    for broken in (detections([HERE, HERE], [0.5, float("nan")]), detections([HERE, [0, 0, float("inf"), 1]], [1, 1])):
        with pytest.raises(InputError, match="image 1: 1 of 2 detections are not finite"):
            evaluator.update(broken, there)
    assert len(evaluator) == 1


def test_gradients_and_devices_are_left_behind() -> None:
    found = detections([HERE], [0.5])
    found = dataclasses.replace(found, scores=found.scores.requires_grad_())
    evaluator = DetectionEvaluator(NAMES)
    evaluator.update(found, objects([HERE]))
    assert evaluator.compute().classes[0].voc07 == pytest.approx(100)


def test_the_best_threshold_has_the_highest_f1() -> None:
    """Beside every threshold tried one by one on made-up images, with equal scores among them."""
    images = crowded(np.random.default_rng(3), images=40)
    scores = evaluate(images, ("a", "b", "c"))
    for label, row in enumerate(scores.classes):
        figures = {}
        for threshold in sorted({float(score) for found, _ in images for score in found.scores}):
            right = wrong = 0
            for found, there in images:
                verdicts = match(found.above(threshold), there)
                own = found.above(threshold).labels == label
                right += int((verdicts.right & own).sum())
                wrong += int((verdicts.wrong & own).sum())
            precision, recall = right / max(right + wrong, 1), right / row.objects
            figures[threshold] = (2 * right / (right + wrong + row.objects), precision, recall)
        best = max(figures.values())[0]
        assert row.f1 == pytest.approx(100 * best)
        assert row.threshold is not None
        assert figures[row.threshold] == pytest.approx([row.f1 / 100, row.precision / 100, row.recall / 100])


def test_what_is_found_as_what() -> None:
    """One right, one found as another class, one missed, one of nothing, one below its class's threshold."""
    there = objects([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [0, 0, 1])
    found = detections(
        [[0, 0, 10, 10], [20, 0, 30, 10], [70, 0, 80, 10], [90, 0, 99, 9]], [0.9, 0.8, 0.9, 0.1], [0, 1, 0, 0]
    )
    other = (detections([[0, 0, 10, 10]], [0.7], [1]), objects([[0, 0, 10, 10]], [1]))
    scores = evaluate([(found, there), other], ("cat", "dog"))
    assert scores.confusion.matrix == ((1, 1, 0), (0, 1, 1), (1, 0, 0))
    assert scores.confusion.thresholds == pytest.approx((0.9, 0.7))
    assert scores.confusion.mistaken(("cat", "dog")) == [("cat", "dog", 1)]
    assert scores.to_dict()["confusion"]["matrix"] == ((1, 1, 0), (0, 1, 1), (1, 0, 0))


def test_confusions_add_up_over_made_up_images() -> None:
    images = crowded(np.random.default_rng(1), images=40)
    scores = evaluate(images, ("a", "b", "c"))
    matrix = np.array(scores.confusion.matrix)
    for label, row in enumerate(scores.classes):
        assert matrix[label].sum() == row.objects
        assert matrix[label, label] == round(row.recall / 100 * row.objects)
        assert matrix[:, label].sum() == round(matrix[label, label] / (row.precision / 100))


def test_without_objects_or_detections_there_is_no_threshold() -> None:
    for image in ((detections([], []), objects([[0, 0, 9, 9]])), (detections([[0, 0, 9, 9]], [0.8]), objects([]))):
        scores = evaluate([image])
        row = scores.classes[0]
        assert (row.threshold, row.precision, row.recall, row.f1) == (None, None, None, None)
        assert scores.confusion.matrix == (((0, 1), (0, 0)) if len(image[1]) else ((0, 0), (1, 0)))
