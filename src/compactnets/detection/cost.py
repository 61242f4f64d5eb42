"""The cost of a detector, per part: multiply-adds from shapes, as for classifiers, and parameters.

Box selection between the parts (suppression, RoIAlign) is not counted: it has no convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.ssd import SSD

from compactnets.complexity import CONVENTION, PartCost, parts_of, profile, render_parts
from compactnets.console import Group, stdout
from compactnets.detection.checkpoint import DetectorRecord, build_detector
from compactnets.detection.recipe import DetectionRecipe
from compactnets.errors import InputError
from compactnets.models.backbone import create_backbone
from compactnets.training.recipe_files import load, load_recipe

PARTS = {  # title: beginning of the names of its layers
    "ssd": {
        "backbone": "backbone.levels.",
        "extra layers": "backbone.extras.",
        "class head": "head.classification_head.",
        "box head": "head.regression_head.",
    },
    "faster_rcnn": {"backbone": "backbone.", "proposals": "rpn.", "subnet": "subnet.", "heads": "heads."},
}
VOC_CLASSES = 20
REPEATED = ("subnet", "heads")  # once for each proposal


@dataclass(frozen=True)
class DetectorCost:
    """The cost of a detector for one image; the parts sum to the whole.

    Attributes:
        detector: ``faster_rcnn`` or ``ssd``.
        model: the backbone.
        size: height and width of the image after the detector's scaling.
        proposals: largest number of boxes for the subnet of Faster R-CNN; ``None`` for SSD.
        macs: multiply-adds of convolution and linear layers.
        params: elements of all parameters, including those of frozen batch normalisation.
        parts: in the order in which they run.
    """

    detector: str
    model: str
    size: tuple[int, int]
    proposals: int | None
    macs: int
    params: int
    parts: tuple[PartCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as JSON-ready values, with ``convention`` stating what ``macs`` means."""
        return {
            "convention": CONVENTION,
            **asdict(self),
            "size": list(self.size),
            "parts": list(map(asdict, self.parts)),
        }

    def show(self) -> None:
        """Print a table of the parts."""
        stdout.print(render_cost(self))


def default_size(record: DetectorRecord) -> tuple[int, int]:
    """Return the default height and width for counting: SSD's own, or Faster R-CNN's for a 4:3 image."""
    if record.ssd is not None:
        return record.ssd.size, record.ssd.size
    assert record.faster_rcnn is not None
    shorter = record.faster_rcnn.shorter_side
    return shorter, min(record.faster_rcnn.longer_side, round(shorter * 4 / 3))


def detector_cost(record: DetectorRecord, size: tuple[int, int] | None = None) -> DetectorCost:
    """Count the cost of a record's detector; weights do not matter.

    Args:
        record: of the detector.
        size: height and width of the image after the detector's scaling; default: :func:`default_size`.

    Raises:
        InputError: a size that is not positive, or one that differs from SSD's own.
    """
    size = size or default_size(record)
    if record.ssd is not None and size != default_size(record):
        side = record.ssd.size
        raise InputError(f"this SSD scales every image to {side} x {side} pixels, found {size[0]} x {size[1]}")
    arguments = {key: value for key, value in record.arguments.items() if key != "pretrained"}
    # frozen batch normalisation has buffers instead of parameters, but it is the same network
    plain = record.model_copy(update={"frozen_batchnorm": False})
    detector = build_detector(plain, create_backbone(record.model, arguments))
    proposals = None if record.faster_rcnn is None else record.faster_rcnn.proposals_test
    network = _SSDNetwork(detector) if proposals is None else _FasterRCNNNetwork(detector, record)
    cost = profile(network, (3, *size))
    parts = parts_of(cost, PARTS[record.detector], dict.fromkeys(REPEATED, proposals or 1))
    return DetectorCost(record.detector, record.model, size, proposals, cost.macs, cost.params, parts)


def planned_record(
    model: str,
    detector: Literal["faster_rcnn", "ssd"] | None,
    recipe: str | None = None,
    num_classes: int | None = None,
    settings: Sequence[str] = (),
) -> DetectorRecord:
    """Return the record of a detector that does not exist yet.

    Args:
        model: the backbone.
        detector: its kind; default: the recipe's.
        recipe: its settings; default: the default of every setting.
        num_classes: number of classes; default: 20, as in Pascal VOC.
        settings: ``key=value`` overrides of the recipe.

    Raises:
        InputError: no such recipe, one of the other detector, or settings that it does not take.
    """
    if recipe is not None:
        plan = load_recipe(DetectionRecipe, recipe, settings, model)
    else:
        plan = load(DetectionRecipe, {"detector": detector, "model": model, "epochs": 1}, detector or "", settings)
    if detector not in (None, plan.detector):
        raise InputError(f"recipe {recipe} is of {plan.detector}, found --detector {detector}")
    return DetectorRecord(
        detector=plan.detector,
        model=plan.model,
        arguments=plan.model_arguments,
        faster_rcnn=plan.faster_rcnn if plan.detector == "faster_rcnn" else None,
        ssd=plan.ssd if plan.detector == "ssd" else None,
        frozen_batchnorm=False,
        class_names=[str(number) for number in range(num_classes or VOC_CLASSES)],
        source="",
        license="",
    )


class _SSDNetwork(nn.Module):
    """An SSD's convolutions: (N, 3, S, S) -> class scores."""

    def __init__(self, detector: SSD) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(list(self.backbone(images).values()))["cls_logits"]
        return scores


class _FasterRCNNNetwork(nn.Module):
    """A Faster R-CNN's convolutions, with its largest number of proposals: (1, 3, H, W) -> class scores."""

    def __init__(self, detector: FasterRCNN, record: DetectorRecord) -> None:
        super().__init__()
        assert record.faster_rcnn is not None
        self.backbone, self.rpn = detector.backbone, detector.rpn.head
        self.subnet, self.heads = detector.roi_heads.box_head, detector.roi_heads.box_predictor
        self.proposals, self.roi_size = record.faster_rcnn.proposals_test, record.faster_rcnn.roi_size
        self.multiple = detector.transform.size_divisible

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        features = self.backbone(F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple)))
        self.rpn([features])
        regions = features.new_zeros(self.proposals, features.shape[1], self.roi_size, self.roi_size)
        scores: Tensor = self.heads(self.subnet(regions))[0]
        return scores


def render_cost(cost: DetectorCost) -> Group:
    """Return rich text: a table of the parts, and under it :data:`CONVENTION`."""
    height, width = cost.size
    title = f"{cost.detector} on {cost.model}, image of {height} x {width} pixels"
    return render_parts(title, cost.parts)
