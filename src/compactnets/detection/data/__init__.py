"""Images with boxes: Pascal VOC trees, COCO files and YOLO's text files, checked and converted.

:func:`open_detection` recognises the layout of a source, and :func:`open_run` opens both splits of a run.
:func:`review_both` checks them before the first step, and :func:`usable` returns the objects of an image that can be
trained on or measured with. :func:`check_detection` checks a whole source, :func:`convert` writes it in another format.
"""

from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.checking import check_detection
from compactnets.detection.data.conversion import convert
from compactnets.detection.data.opening import is_detection, open_detection, open_run, open_splits
from compactnets.detection.data.problems import Problem, find_problems, usable
from compactnets.detection.data.reviewing import review, review_both

__all__ = [
    "DetectionSource",
    "Problem",
    "check_detection",
    "convert",
    "find_problems",
    "is_detection",
    "open_detection",
    "open_run",
    "open_splits",
    "review",
    "review_both",
    "usable",
]
