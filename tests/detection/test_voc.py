"""Average precision of Pascal VOC, against worked examples and independent implementations."""

from __future__ import annotations

import numpy as np
import pytest

from compactnets.detection.objects import no_objects
from compactnets.detection.voc import area_under_precision, eleven_point_precision
from tests.detection import kit
from tests.detection.scenes import crowded, detections, evaluate, objects, sparse

# The example of seven images by Rafael Padilla (github.com/rafaelpadilla/Object-Detection-Metrics, MIT licence):
# left, top, width, height of what is there; score and the same of what was found
PADILLA = [
    ([[25, 16, 38, 56], [129, 123, 41, 62]], [[0.88, 5, 67, 31, 48], [0.70, 119, 111, 40, 67], [0.80, 124, 9, 49, 67]]),
    (
        [[123, 11, 43, 55], [38, 132, 59, 45]],
        [[0.71, 64, 111, 64, 58], [0.54, 26, 140, 60, 47], [0.74, 19, 18, 43, 35]],
    ),
    (
        [[16, 14, 35, 48], [123, 30, 49, 44], [99, 139, 47, 47]],
        [
            [0.18, 109, 15, 77, 39],
            [0.67, 86, 63, 46, 45],
            [0.38, 160, 62, 36, 53],
            [0.91, 105, 131, 47, 47],
            [0.44, 18, 148, 40, 44],
        ],
    ),
    (
        [[53, 42, 40, 52], [154, 43, 31, 34]],
        [[0.35, 83, 28, 28, 26], [0.78, 28, 68, 42, 67], [0.45, 87, 89, 25, 39], [0.14, 10, 155, 60, 26]],
    ),
    (
        [[59, 31, 44, 51], [48, 128, 34, 52]],
        [[0.62, 50, 38, 28, 46], [0.44, 95, 11, 53, 28], [0.95, 29, 131, 72, 29], [0.23, 29, 163, 72, 29]],
    ),
    ([[36, 89, 52, 76], [62, 58, 44, 67]], [[0.45, 43, 48, 74, 38], [0.84, 17, 155, 29, 35], [0.43, 95, 110, 25, 42]]),
    ([[28, 31, 55, 63], [58, 67, 50, 58]], [[0.48, 16, 20, 101, 88], [0.95, 33, 116, 37, 49]]),
]


def corners(left: float, top: float, width: float, height: float) -> list[float]:
    """That tool counts the pixel at left + width to the box, as the development kit does with xmax."""
    return [left, top, left + width + 1, top + height + 1]


def test_padillas_example() -> None:
    """Its page states 26.84 % at eleven points and 24.56 % (its results file: 24.57) as area, at an overlap of 0.3.

    By hand from its table: right are the 1st, 3rd, 10th, 12th, 13th, 14th and 23rd of 24 detections, of 15 objects.
    The highest precisions from the recalls 0, 0.1, 0.2, 0.3, 0.4 on are 1, 2/3, 3/7, 3/7, 3/7; then there is none.
    """
    images = [
        (
            detections([corners(*row[1:]) for row in found], [row[0] for row in found]),
            objects([corners(*row) for row in there]),
        )
        for there, found in PADILLA
    ]
    scores = evaluate(images, iou_threshold=0.3)
    assert (scores.classes[0].objects, scores.classes[0].detections) == (15, 24)
    assert scores.voc07 == pytest.approx(100 * (1 + 2 / 3 + 3 * 3 / 7) / 11)
    assert scores.voc07 == pytest.approx(26.84, abs=0.005)
    assert scores.voc10 == pytest.approx(100 * (1 + 2 / 3 + 4 * 3 / 7 + 7 / 23) / 15)
    assert scores.voc10 == pytest.approx(24.57, abs=0.005)


def test_curve_by_hand() -> None:
    """Two objects; right, wrong, right: precisions 1, 1/2, 2/3 at the recalls 1/2, 1/2, 1."""
    recall, precision = [0.5, 0.5, 1.0], [1.0, 0.5, 2 / 3]
    assert eleven_point_precision(recall, precision) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert area_under_precision(recall, precision) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_no_detections_is_zero() -> None:
    assert eleven_point_precision([], []) == 0
    assert area_under_precision([], []) == 0


@pytest.mark.parametrize(("found", "levels"), [(3, 3), (4, 5), (6, 6), (7, 7), (8, 9), (9, 10), (10, 11)])
def test_recalls_are_compared_as_doubles(found: int, levels: int) -> None:
    """0.3, 0.6 and 0.7 are met by the next object only: 3 * 0.1 > 3 / 10 in binary, as with numpy.arange(0, 1.1, 0.1).

    Of ten objects ``found`` are found, without error: the precision is 1 at ``levels`` of the eleven recalls.
    """
    recall = np.arange(1, found + 1) / 10
    assert sum(recall[-1] >= level for level in np.arange(0, 1.1, 0.1)) == levels
    assert eleven_point_precision(recall, np.ones(found)) == pytest.approx(levels / 11)


HERE, ELSEWHERE = [0, 0, 10, 10], [50, 50, 60, 60]


def test_second_detection_of_an_object_is_wrong() -> None:
    scores = evaluate([(detections([HERE, HERE], [0.9, 0.8]), objects([HERE, ELSEWHERE]))])
    assert scores.voc10 == pytest.approx(50)
    scores = evaluate([(detections([HERE, HERE, ELSEWHERE], [0.9, 0.8, 0.7]), objects([HERE, ELSEWHERE]))])
    assert scores.voc10 == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))


def test_a_detection_goes_to_its_nearest_object_even_if_that_is_found() -> None:
    """Unlike COCO's rule, under which the second detection would get the free object, which it overlaps by 0.6."""
    near, free = [0, 0, 10, 10], [0, 0, 10, 6]
    scores = evaluate([(detections([near, near], [0.9, 0.8]), objects([near, free]))])
    assert scores.voc10 == pytest.approx(50)


def test_difficult_objects_neither_help_nor_harm() -> None:
    scores = evaluate(
        [
            (
                detections([ELSEWHERE, ELSEWHERE, HERE], [0.9, 0.8, 0.7]),
                objects([HERE, ELSEWHERE], difficult=[False, True]),
            )
        ]
    )
    assert scores.voc07 == scores.voc10 == pytest.approx(100)
    assert (scores.classes[0].objects, scores.classes[0].ignored, scores.classes[0].detections) == (1, 1, 3)
    missed = evaluate([(detections([HERE], [0.7]), objects([HERE, ELSEWHERE], difficult=[False, True]))])
    assert missed.voc07 == pytest.approx(100)


def test_crowds_are_taken_as_difficult() -> None:
    found = detections([ELSEWHERE, ELSEWHERE, HERE], [0.9, 0.8, 0.7])
    scores = evaluate([(found, objects([HERE, ELSEWHERE], crowd=[False, True]))])
    assert scores.voc07 == pytest.approx(100)
    assert (scores.classes[0].objects, scores.classes[0].ignored) == (1, 1)
    missed = evaluate([(detections([ELSEWHERE], [0.9]), objects([HERE, ELSEWHERE], crowd=[False, True]))])
    assert missed.voc07 == 0


def test_overlap_of_exactly_one_half_counts() -> None:
    scores = evaluate([(detections([[0, 0, 10, 5]], [0.9]), objects([HERE]))])
    assert scores.voc07 == pytest.approx(100)
    assert evaluate([(detections([[0, 0, 10, 4.99]], [0.9]), objects([HERE]))]).voc07 == 0
    half = evaluate([(detections([[0, 0, 3001, 3333]], [0.9]), objects([[0, 0, 3001, 6666]]))])
    assert half.voc07 == pytest.approx(100), "in float32 the overlap is 0.49999994"


def test_another_class_is_not_found() -> None:
    images = [(detections([HERE], [0.9], [1]), objects([HERE], [0]))]
    scores = evaluate(images, ("cat", "dog"))
    assert (scores.classes[0].voc07, scores.classes[1].voc07) == (0, None)


def test_class_without_objects_is_left_out_of_the_mean() -> None:
    images = [(detections([HERE, ELSEWHERE], [0.9, 0.8], [0, 2]), objects([HERE, ELSEWHERE], [0, 1]))]
    scores = evaluate(images, ("cat", "dog", "cow"))
    assert [row.voc07 for row in scores.classes] == [pytest.approx(100), 0, None]
    assert scores.voc07 == scores.headline == pytest.approx(50)
    only_difficult = evaluate([(detections([HERE], [0.9]), objects([HERE], difficult=[True]))])
    assert only_difficult.voc07 is None
    assert only_difficult.headline is None


def test_images_without_objects_or_detections() -> None:
    empty = detections([], [])
    images = [
        (empty, no_objects()),
        (empty, objects([HERE])),
        (detections([HERE], [0.9]), no_objects()),
        (detections([HERE], [0.8]), objects([HERE])),
    ]
    scores = evaluate(images)
    assert (scores.images, scores.classes[0].objects, scores.classes[0].detections) == (4, 2, 2)
    assert scores.voc10 == pytest.approx(100 * 0.5 * 0.5)


def test_equal_scores_keep_the_order_of_images_and_detections() -> None:
    there = objects([HERE])
    first = (detections([HERE, ELSEWHERE], [0.5, 0.5]), there)
    assert evaluate([first]).voc10 == pytest.approx(100)
    last = (detections([ELSEWHERE, HERE], [0.5, 0.5]), there)
    assert evaluate([last]).voc10 == pytest.approx(50)
    wrong = (detections([ELSEWHERE], [0.5]), no_objects())
    right = (detections([HERE], [0.5]), there)
    assert evaluate([right, wrong]).voc10 == pytest.approx(100)
    assert evaluate([wrong, right]).voc10 == pytest.approx(50)


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_the_kit_in_loops(seed: int) -> None:
    """200 random evaluations of 5 images: overlaps, duplicates, difficult objects, equal scores."""
    random, names = np.random.default_rng(seed), ("a", "b", "c")
    compared = 0
    for _ in range(20):
        images = crowded(random)
        scores = evaluate(images, names)
        for label, row in enumerate(scores.classes):
            recall, precision, positives = kit.class_curve(images, label)
            assert row.objects == positives
            if not positives:
                assert row.voc07 is None
                continue
            assert row.voc07 == pytest.approx(100 * kit.eleven_points(recall, precision), abs=1e-9)
            assert row.voc10 == pytest.approx(100 * kit.area(recall, precision), abs=1e-9)
            compared += row.voc07 > 0
    assert compared > 25


def test_agrees_with_coco_at_eleven_recalls() -> None:
    """COCO's evaluation with VOC's recalls and overlap, where both rules assign alike: 50 random evaluations.

    It is independent of the package and of the loops above: code of COCO's authors, translated into C++ by others.
    """
    from tests.detection.cocos import coco_precision  # skips without the extra

    random, names = np.random.default_rng(0), ("a", "b", "c")
    compared = 0
    for _ in range(50):
        images = sparse(random)
        scores = evaluate(images, names)
        precision = coco_precision(images, 3, [0.5], [0.1 * step for step in range(11)])[0, :, :, 0, -1]
        for label, row in enumerate(scores.classes):
            expected = precision[:, label].mean()
            assert (row.voc07 is None) == (expected < 0)
            if row.voc07 is not None:
                assert row.voc07 == pytest.approx(100 * expected, abs=1e-9)
                compared += 0 < row.voc07 < 100
    assert compared > 60
