"""Recorded results and the code that records them. Each JSON file names command, commit, date, device and versions.

The folders beside this file: ``training``, ``detection`` and ``segmentation`` (finished runs), ``ablation``
(``compactnets papers ablation``), ``search`` (``compactnets search``), ``evaluation`` (a checkpoint on a sample),
``latency`` (``compactnets benchmark``), ``int8`` (``compactnets quantize``), ``speed``, ``latency_table``,
``microcontroller`` and others (the scripts of ``benchmarks``).
docs/results.md shows all of them, ``compactnets papers report`` those that belong to the papers' tables. No number is
typed manually.
"""

from compactnets.recorded.files import FOLDER, load_results
from compactnets.recorded.runs import (
    add_runs,
    network_label,
    read_classifier_run,
    read_detector_run,
    read_segmenter_run,
)

__all__ = [
    "FOLDER",
    "add_runs",
    "load_results",
    "network_label",
    "read_classifier_run",
    "read_detector_run",
    "read_segmenter_run",
]
