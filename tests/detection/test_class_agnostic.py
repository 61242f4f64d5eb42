"""Suppression over all classes, in PyTorch, in exported files, and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.ops import box_iou, nms

from compactnets.detection.checkpoint import DetectorRecord, load_detector
from compactnets.detection.deploy.export import export_detector
from compactnets.detection.deploy.runtime import load_detector_artifact
from compactnets.detection.evaluation import find_objects
from compactnets.detection.objects import Detections
from compactnets.errors import InputError

from .lively import lively_detector, photograph

DETECTORS = ["ssd", "faster_rcnn"]


def write(folder: Path, kind: str) -> Path:
    detector, record = lively_detector(kind)
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in detector.state_dict().items()}, folder / "a.safetensors")
    (folder / "a.json").write_text(record.model_dump_json())
    return folder / "a.safetensors"


def overlap_across(found: Detections) -> float:
    """The largest overlap of two boxes, of any classes."""
    return float((box_iou(found.boxes, found.boxes) - torch.eye(len(found))).max())


@pytest.mark.parametrize("kind", DETECTORS)
def test_one_of_overlapping_boxes_is_left_whatever_the_class(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "net", kind)
    plain, record = load_detector(path)
    agnostic, changed = load_detector(path, class_agnostic_nms=True)
    settings: Any = getattr(record, kind)
    assert not settings.class_agnostic_nms
    assert getattr(changed, kind).class_agnostic_nms
    before, after = find_objects(plain, [photograph()])[0], find_objects(agnostic, [photograph()])[0]
    assert overlap_across(before) > settings.nms, "two classes find the same place"
    assert overlap_across(after) <= settings.nms + 1e-5
    # greedy over everything that torchvision would suppress class by class
    chooser: Any = plain if kind == "ssd" else plain.roi_heads
    chooser.nms_thresh, chooser.detections_per_img = 1.0, None
    candidates = find_objects(plain, [photograph()])[0]
    keep = nms(candidates.boxes, candidates.scores, settings.nms)[: settings.detections]
    assert torch.allclose(after.scores, candidates.scores[keep])
    assert torch.equal(after.labels, candidates.labels[keep])
    assert DetectorRecord.model_validate_json(changed.model_dump_json()) == changed


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["boxes", "raw"])
@pytest.mark.parametrize("kind", DETECTORS)
def test_exported_detectors_suppress_alike(kind: str, heads: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = write(tmp_path / "net", kind)
    detector, record = load_detector(path, class_agnostic_nms=True)
    artifact = export_detector(detector, record, tmp_path / "out", heads=heads)
    assert artifact.decoding.class_agnostic
    assert any("of all classes together at decoding.overlap" in step for step in artifact.steps) == (heads == "raw")
    exported = load_detector_artifact(tmp_path / "out", class_agnostic_nms=True)
    found, wanted = (find_objects(each, [photograph()])[0] for each in (exported, detector))
    assert len(found) == len(wanted) > 0
    assert torch.allclose(found.scores, wanted.scores, atol=1e-4)
    # of files that were exported without it: the caller's choice can change, one inside the graph cannot
    plain, own = load_detector(path)
    export_detector(plain, own, tmp_path / "plain", heads=heads)
    if heads == "boxes":
        with pytest.raises(InputError, match="export it with --class-agnostic-nms"):
            load_detector_artifact(tmp_path / "plain", class_agnostic_nms=True)
    else:
        changed = load_detector_artifact(tmp_path / "plain", class_agnostic_nms=True)
        assert torch.allclose(find_objects(changed, [photograph()])[0].scores, wanted.scores, atol=1e-4)
