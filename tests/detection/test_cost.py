"""The cost of detectors: layers counted by hand, the parts against the whole, the whole against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compactnets.detection.cost import default_size, detector_cost, planned_record
from compactnets.errors import InputError

from .lively import lively_detector

TINY = {
    "ssd": ["ssd.size=64", "ssd.strides=[16,32]", "ssd.extra_channels=[16]", "ssd.ratios=[[2]]"],
    "faster_rcnn": ["faster_rcnn.shorter_side=64", "faster_rcnn.longer_side=96", "faster_rcnn.proposals_test=20"],
}


@pytest.mark.parametrize("kind", ["ssd", "faster_rcnn"])
def test_the_whole_is_what_a_run_computes(kind: str) -> None:
    detector, record = lively_detector(kind, "shufflenet_g3_x0_25")
    cost = detector_cost(record)
    boxes: list[int] = []
    if kind == "faster_rcnn":
        detector.roi_heads.box_head.register_forward_pre_hook(lambda _, inputs: boxes.append(len(inputs[0])))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        detector([torch.rand(3, *cost.size)])
    assert boxes == ([cost.proposals] if boxes else [])
    assert cost.macs == counter.get_total_flops() // 2
    assert cost.macs == sum(part.macs for part in cost.parts)
    assert cost.params == sum(part.params for part in cost.parts)
    frozen = sum(
        buffer.numel() for name, buffer in detector.named_buffers() if name.endswith(("norm.weight", "norm.bias"))
    )
    assert cost.params == sum(parameter.numel() for parameter in detector.parameters()) + frozen


def test_parts_of_faster_rcnn_by_hand() -> None:
    """shufflenet_g3_x0_25: 120 channels at 1/16, 240 at the end; 9 anchors of a cell; 20 classes."""
    record = planned_record("shufflenet_g3_x0_25", "faster_rcnn", settings=TINY["faster_rcnn"])
    parts = {part.name: part for part in detector_cost(record, (64, 90)).parts}
    cells = 4 * 6  # 90 pixels are padded to 96
    assert parts["proposals"].macs == cells * (120 * 120 * 9 + 120 * 9 + 120 * 9 * 4)
    assert parts["proposals"].params == 120 * 120 * 9 + 120 + (120 + 1) * 9 * 5
    assert parts["heads"].macs == 20 * 240 * 21 * 5
    assert parts["heads"].params == 241 * 21 * 5
    assert (parts["subnet"].times, parts["heads"].times, parts["backbone"].times) == (20, 20, 1)
    more = planned_record(
        "shufflenet_g3_x0_25", "faster_rcnn", settings=[*TINY["faster_rcnn"][:2], "faster_rcnn.proposals_test=40"]
    )
    double = {part.name: part for part in detector_cost(more, (64, 90)).parts}
    assert double["subnet"].macs == 2 * parts["subnet"].macs
    assert double["backbone"] == parts["backbone"]


def test_parts_of_ssd_by_hand() -> None:
    """Maps of 4, 2 and 1 cells a side with 120, 240 and 16 channels; 4 anchors of a cell; 3 classes."""
    record = planned_record("shufflenet_g3_x0_25", "ssd", num_classes=3, settings=TINY["ssd"])
    parts = {part.name: part for part in detector_cost(record).parts}
    assert parts["extra layers"].macs == 2 * 2 * 240 * 8 + 8 * 16 * 9
    head = 9 * (16 * 120 + 4 * 240 + 16) * 4  # for each value of an anchor
    assert parts["class head"].macs == head * 4
    assert parts["box head"].macs == head * 4


def test_plans() -> None:
    plan = planned_record("resnet18", None, "small/ssd512", settings=["ssd.size=256"], num_classes=3)
    assert (plan.detector, plan.model, len(plan.class_names)) == ("ssd", "resnet18", 3)
    assert default_size(plan) == (256, 256)
    assert default_size(planned_record("resnet18", "faster_rcnn")) == (600, 800)
    for arguments, message in (
        (("resnet18", "faster_rcnn", "small/ssd512"), "recipe small/ssd512 is of ssd, found --detector faster_rcnn"),
        (("resnet18", "ssd", None, None, ["ssd.bogus=1"]), "unknown key 'ssd.bogus'"),
    ):
        with pytest.raises(InputError, match=message):
            planned_record(*arguments)
    with pytest.raises(InputError, match="512 x 512 .*found 64 x 64"):
        detector_cost(planned_record("resnet18", "ssd"), (64, 64))
