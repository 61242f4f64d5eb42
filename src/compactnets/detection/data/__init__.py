"""Images with boxes: Pascal VOC trees and COCO files, checked and converted.

:func:`open_detection` recognises what the user named; :func:`usable` gives the objects of an image that a detector can
be trained on and measured with. :func:`check_detection` looks at all of a source, :func:`convert` writes it in the
other format.
"""

from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.checking import check_detection
from compactnets.detection.data.conversion import convert
from compactnets.detection.data.opening import is_detection, open_detection, open_splits
from compactnets.detection.data.problems import Problem, find_problems, usable

__all__ = [
    "DetectionSource",
    "Problem",
    "check_detection",
    "convert",
    "find_problems",
    "is_detection",
    "open_detection",
    "open_splits",
    "usable",
]
