"""Recorded results, as JSON that names command, commit, date, device, seed and versions, and how runs become records.

The folders beside this file: ``training`` and ``detection`` (finished runs), ``ablation`` (``compactnets papers
ablation``), ``evaluation`` (a checkpoint on a sample), ``latency`` (``compactnets benchmark``), ``int8`` (``compactnets
quantize``), ``speed`` (the scripts of ``benchmarks``).
docs/results.md shows them, ``compactnets papers report`` those that the papers' tables have a place for. No number in
them is typed.
"""

from compactnets.recorded.files import FOLDER, load_records
from compactnets.recorded.runs import add_runs, network_label, read_classifier_run, read_detector_run

__all__ = [
    "FOLDER",
    "add_runs",
    "load_records",
    "network_label",
    "read_classifier_run",
    "read_detector_run",
]
