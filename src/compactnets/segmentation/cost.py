"""The cost of a segmenter, by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from compactnets.complexity import CONVENTION, PartCost, parts_of, profile, render_parts
from compactnets.console import stdout
from compactnets.segmentation.checkpoint import SegmenterRecord, build
from compactnets.segmentation.recipe import Head, SegmentationRecipe
from compactnets.training.recipe_files import load, load_recipe

PARTS = {"backbone": "backbone.", "head": "head."}
VOC_CLASSES = 21
SIZE = (512, 512)


@dataclass(frozen=True)
class SegmenterCost:
    """The cost of a segmenter for one image; the parts sum to the whole, without the auxiliary head.

    Attributes:
        title: the network's name.
        size: height and width of the image.
        output: height and width of the scores, which are scaled to the image afterwards.
        macs: multiply-adds of convolution and linear layers.
        params: elements of the parameters.
        parts: backbone and head.
    """

    title: str
    size: tuple[int, int]
    output: tuple[int, int]
    macs: int
    params: int
    parts: tuple[PartCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the cost for JSON, with ``convention`` stating what ``macs`` means."""
        return {"convention": CONVENTION, **asdict(self)}

    def show(self) -> None:
        """Print a table of the parts."""
        (height, width), (rows, columns) = self.size, self.output
        title = f"{self.title}, image of {height} x {width} pixels, scores of {rows} x {columns}"
        stdout.print(render_parts(title, self.parts))


def segmenter_cost(record: SegmenterRecord, size: tuple[int, int] | None = None) -> SegmenterCost:
    """Count the cost of a record's network; weights do not matter.

    Args:
        size: height and width of the image; default: the record's, or 512 x 512.
    """
    network, size = without_auxiliary(record), size or record.size or SIZE
    cost = profile(network, (3, *size))
    height, width = (-(-side // network.stride) for side in size)
    return SegmenterCost(record.title, size, (height, width), cost.macs, cost.params, parts_of(cost, PARTS))


def without_auxiliary(record: SegmenterRecord) -> Any:
    """Build a record's network without the head that only training uses."""
    return build(record.model_copy(update={"settings": record.settings.model_copy(update={"auxiliary": 0.0})})).eval()


def planned_record(
    model: str,
    head: Head | None,
    recipe: str | None = None,
    output_stride: int | None = None,
    num_classes: int | None = None,
    settings: Sequence[str] = (),
) -> SegmenterRecord:
    """Return the record of a segmenter that does not exist yet.

    Args:
        model: the backbone.
        head: its head; default: the recipe's, or LR-ASPP.
        recipe: its settings; default: the default of every setting.
        output_stride: of the backbone; default: the recipe's.
        num_classes: default: the recipe's, or 21, as in Pascal VOC.
        settings: ``key=value`` overrides of the recipe.

    Raises:
        InputError: no such recipe, or settings that it does not take.
    """
    given = {"head": head, "output_stride": output_stride}
    chosen = [*settings, *(f"{key}={value}" for key, value in given.items() if value is not None)]
    if recipe is None:
        plan = load(SegmentationRecipe, {"task": "segmentation", "model": model, "epochs": 1}, head or "", chosen)
    else:
        plan = load_recipe(SegmentationRecipe, recipe, chosen, model)
    numbered = [str(number) for number in range(num_classes or VOC_CLASSES)]
    names = list(plan.classes) if plan.classes and num_classes is None else numbered
    return SegmenterRecord(
        model=plan.model,
        arguments=plan.model_arguments,
        settings=plan.segmenter,
        class_names=names,
        ignore=list(plan.ignore),
        size=plan.size,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        source="",
        license="",
    )
