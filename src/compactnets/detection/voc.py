"""Average precision as Pascal VOC defines it: at eleven recalls (2007 to 2009) and as an area (2010 and later)."""

from __future__ import annotations

from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike, NDArray

RECALLS = tuple(0.1 * step for step in range(11))


def eleven_point_precision(recall: ArrayLike, precision: ArrayLike) -> float:
    """Return the mean, over the recalls 0, 0.1, … 1, of the highest precision at that recall or a larger one.

    Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010, equations 1 and 2;
    ``VOCevaldet.m`` of the development kit of 2007. A recall that is not reached counts as precision 0.

    The recalls, ``for t=0:0.1:1`` in the kit, are the doubles 0.1 * k, as ``numpy.arange(0, 1.1, 0.1)`` has them in its
    usual ports: 0.30000000000000004, and slightly above 0.6 and 0.7. So 3 objects of 10 do not reach the recall 0.3,
    nor 6 of 10 the recall 0.6, while 9 of 10 reach 0.9. MATLAB's own loop could not be tried.

    Args:
        recall: (N,) share of the objects that are found among the first 1, 2, … N detections, from 0 to 1.
        precision: (N,) share of these detections that are right, from 0 to 1.

    Returns:
        The average precision, from 0 to 1.
    """
    recall, precision = np.asarray(recall, dtype=np.float64), np.asarray(precision, dtype=np.float64)
    return fmean(float(precision[recall >= level].max(initial=0)) for level in RECALLS)


def area_under_precision(recall: ArrayLike, precision: ArrayLike) -> float:
    """Return the area under the monotonically decreasing precision envelope, the average precision of VOC 2010.

    The development kit of VOC 2010, section 3.4.1 and ``VOCap.m``. Arguments and result are those of
    :func:`eleven_point_precision`.
    """
    steps = np.concatenate([[0.0], np.asarray(recall, dtype=np.float64)])
    falling = np.maximum.accumulate(np.asarray(precision, dtype=np.float64)[::-1])[::-1]
    return float((np.diff(steps) * falling).sum())


def precision_recall(
    scores: NDArray[np.floating], right: NDArray[np.bool_], objects: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return recall and precision among the first 1, 2, … N detections of one class, from the highest score down.

    Args:
        scores: (N,) of the detections that are right or wrong; equal ones keep their order, as MATLAB's ``sort`` does.
        right: (N,) which of them are right.
        objects: number of objects to find, at least one.

    Returns:
        Recall (N,) and precision (N,), from 0 to 1.
    """
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(right[order], dtype=np.float64)
    return found / objects, found / np.arange(1, len(found) + 1)
