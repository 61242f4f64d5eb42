"""Measure which objects a detector's anchors match, and fit anchors to the objects (``anchors: auto``).

An anchor matches an object if their IoU is at least 0.5: only then is it trained to find it (except for the best anchor
of each object, which always is). Everything is measured in the network's pixels, after the detector's own scaling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from torchvision.models.detection.anchor_utils import AnchorGenerator

from compactnets.console import say
from compactnets.detection.checkpoint import DetectorRecord
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.opening import Spec, open_detection, open_splits
from compactnets.detection.data.problems import upright_objects
from compactnets.detection.detectors import anchor_scales, default_boxes, map_sizes
from compactnets.detection.recipe import DetectionRecipe

REACHED = 0.5  # IoU above which an anchor matches an object
FEWEST = 20  # fewest objects for fitting anchors
# Sides of SSD's square anchors in strides of their map. Below the first, an object between four cells is not matched by
# a square of its own size; past the second, a cell sees too little of its anchor.
NEAREST, FARTHEST = 2.75, 8.0
LEAST_RATIO = 1.25  # a closer ratio is covered by the square anchor
WORSE = 0.02  # share of the objects that fitted anchors may lose in exchange for better matches
ROUNDS = 100  # of k-means, which converges long before

KEYS = {"ssd": ("scales", "ratios"), "faster_rcnn": ("anchor_sizes", "anchor_ratios")}  # fitted settings
INSTEAD_OF_SCALES = ("smallest", "largest")


class Grid(NamedTuple):
    """The anchors of one map."""

    shapes: np.ndarray  # (A, 2) width and height, pixels
    stride: float  # pixels between two cells
    first: float  # centre of the first cell, pixels
    cells: int | None  # per side; None if the image decides


class SeenObjects(NamedTuple):
    """Objects in the pixels of the network's input."""

    boxes: np.ndarray  # (M, 4) float64: left, top, right, bottom in the pixels of the scaled image
    labels: np.ndarray  # (M,) int64

    @property
    def sides(self) -> np.ndarray:
        """Width and height, (M, 2)."""
        sides: np.ndarray = self.boxes[:, 2:] - self.boxes[:, :2]
        return sides


@dataclass(frozen=True)
class AnchorFit:
    """How the anchors of a recipe fit the objects of a split.

    Attributes:
        recipe: its name.
        scaled: how images are scaled, as text.
        sizes: square root of the area of the objects, in pixels that the network sees: (smallest, median, largest).
        objects: number of objects that are trained on.
        reached: number of objects that an anchor matches.
        anchors: ``"auto"`` if fitted to the training objects, ``"given"`` for the recipe's own.
        reached_by_given: with ``"auto"``, the number that the recipe's own anchors match.
    """

    recipe: str
    scaled: str
    sizes: tuple[float, float, float]
    objects: int
    reached: int
    anchors: str
    reached_by_given: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        least, middle, most = self.sizes
        own = (
            ""
            if self.reached_by_given is None
            else f"; the recipe's own, without anchors=auto, {self.reached_by_given:,}"
        )
        share = 100 * self.reached / self.objects
        return (
            f"{self.recipe} sees them at {self.scaled}: {least:.0f} to {most:.0f} pixels, median {middle:.0f}; its "
            f"anchors match {self.reached:,} of {self.objects:,} ({share:.1f} %) at IoU {REACHED}{own}"
        )


def seen_objects(source: DetectionSource, recipe: DetectionRecipe) -> SeenObjects:
    """Return a source's training objects in the pixels of a recipe's network, before augmentation.

    Image sizes are read from the files once; photographs with an EXIF rotation are turned upright with their boxes.
    """
    return _seen(source, recipe)[0]


def small_objects(source: DetectionSource, recipe: DetectionRecipe) -> tuple[int, int, int | None]:
    """Count a source's objects that are less than a pixel wide or high in the network's input.

    Returns:
        Their number, the number of all training objects, and the first image that has one.
    """
    objects, rows = _seen(source, recipe)
    small = np.flatnonzero((objects.sides < 1).any(axis=1))
    first = int(np.searchsorted(source.table.offsets, rows[small[0]], side="right")) - 1 if len(small) else None
    return len(small), len(rows), first


def _seen(source: DetectionSource, recipe: DetectionRecipe) -> tuple[SeenObjects, np.ndarray]:
    """Return the objects in the network's pixels, and the row of each in the source's table."""
    table = source.table
    of_image = np.repeat(source.upright_sizes(), np.diff(table.offsets), axis=0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        boxes = np.clip(_upright_boxes(source), 0, np.concatenate([of_image, of_image], axis=1))
        keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1) & (of_image > 0).all(axis=1)
    keep &= (table.labels >= 0) & ~table.difficult & ~table.crowd
    boxes, of_image = boxes[keep], of_image[keep]
    if recipe.detector == "ssd":
        factors = recipe.ssd.size / of_image
    else:
        shorter, longer = recipe.faster_rcnn.shorter_side, recipe.faster_rcnn.longer_side
        factors = np.minimum(shorter / of_image.min(axis=1), longer / of_image.max(axis=1))[:, None].repeat(2, axis=1)
    return SeenObjects(boxes * np.concatenate([factors, factors], axis=1), table.labels[keep]), np.flatnonzero(keep)


def _upright_boxes(source: DetectionSource) -> np.ndarray:
    """Return the boxes of a source, (M, 4) float64, turned if the annotation states the size of the stored pixels.

    See :func:`compactnets.detection.data.problems.upright_objects` for a single image.
    """
    table, sizes = source.table, source.upright_sizes()
    turned = (table.sizes == sizes[:, ::-1]).all(axis=1) & (sizes[:, 0] != sizes[:, 1]) & (np.diff(table.offsets) > 0)
    boxes = table.boxes.copy() if turned.any() else table.boxes
    for index in np.flatnonzero(turned).tolist():
        boxes[table.rows(index)] = upright_objects(source, index, *sizes[index].tolist())[0].boxes.numpy()
    return boxes


def anchor_grids(recipe: DetectionRecipe) -> list[Grid]:
    """Return the anchors of a recipe's detector, map by map.

    Raises:
        InputError: invalid settings of SSD.
    """
    if recipe.detector == "faster_rcnn":
        settings = recipe.faster_rcnn
        (corners,) = AnchorGenerator((settings.anchor_sizes,), (settings.anchor_ratios,)).cell_anchors
        shapes = (corners[:, 2:] - corners[:, :2]).double().numpy()
        return [Grid(shapes, settings.stride, 0.0, None)]
    generator, cells = default_boxes(recipe.ssd), map_sizes(recipe.ssd)
    return [
        Grid(pairs.clamp(max=1).double().numpy() * recipe.ssd.size, stride, stride / 2, side)
        for pairs, stride, side in zip(generator._wh_pairs, generator.steps, cells, strict=True)
    ]


def best_overlaps(objects: SeenObjects, grids: Sequence[Grid]) -> np.ndarray:
    """Return the largest intersection over union that any anchor has with each object, (M,).

    Faster R-CNN's map is assumed to extend past the right and lower edges, where its last cells may be missing for
    objects smaller than a stride.
    """
    sides, centres = objects.sides, (objects.boxes[:, 2:] + objects.boxes[:, :2]) / 2
    best = np.zeros(len(sides))
    for grid in grids:
        # of equal anchors, the nearest cell's overlaps most, independently in each direction
        cell = np.round((centres - grid.first) / grid.stride)
        cell = np.clip(cell, 0, None if grid.cells is None else grid.cells - 1)
        away = np.abs(cell * grid.stride + grid.first - centres)
        for shape in grid.shapes:
            shared = np.minimum(np.minimum(sides, shape), np.maximum((sides + shape) / 2 - away, 0)).prod(axis=1)
            best = np.maximum(best, shared / (sides.prod(axis=1) + shape.prod() - shared))
    return best


def count_reached(objects: SeenObjects, recipe: DetectionRecipe) -> int:
    """Return how many objects the anchors of a recipe match."""
    return int((best_overlaps(objects, anchor_grids(recipe)) >= REACHED).sum())


def fit_anchors(recipe: DetectionRecipe, objects: SeenObjects) -> DetectionRecipe:
    """Return the recipe with the same number of anchors, with sizes and ratios fitted to the objects.

    k-means in one dimension, on the logarithms of the sizes (square roots of the areas) and of the ratios: an anchor
    twice as large as an object is as far from it as one half as large. It starts from quantiles, without randomness, so
    equal objects give equal anchors. A class is weighted by the square root of its number of objects, so that a common
    one does not take all anchors.

    For SSD a map's square anchor stays between one and eight of its strides, because smaller ones are too far apart,
    and a cell sees too little of larger ones. Its aspect ratios are fitted to the nearest objects.
    """
    sides = objects.sides
    sizes, ratios = np.log(sides.prod(axis=1)) / 2, np.log(sides[:, 1] / sides[:, 0])
    weights = (np.bincount(objects.labels) ** -0.5 if len(objects.labels) else np.zeros(0))[objects.labels]
    if recipe.detector == "faster_rcnn":
        settings = recipe.faster_rcnn
        found = np.exp(_centres(sizes, weights, len(settings.anchor_sizes)))
        own_ratios = np.exp(_centres(ratios, weights, len(settings.anchor_ratios)))
        update: dict[str, Any] = {
            "anchor_sizes": tuple(max(1, round(size)) for size in found.tolist()),
            "anchor_ratios": tuple(min(100.0, max(0.01, round(ratio, 2))) for ratio in own_ratios.tolist()),
        }
        return _with(recipe, "faster_rcnn", update)
    ssd = recipe.ssd
    strides = np.array(default_boxes(ssd).steps, dtype=np.float64)
    low, high = (np.minimum(factor * strides, 0.95 * ssd.size) for factor in (NEAREST, FARTHEST))
    low[0] = 1.0  # there is no finer map for smaller objects
    squares = _rising(_centres(sizes, weights, len(strides), np.log(low), np.log(high)))
    scales = [round(float(scale), 4) for scale in np.exp(squares) / ssd.size]
    nearest = np.abs(sizes[:, None] - squares).argmin(axis=1)
    per_map = []
    for number in range(len(strides)):
        given = ssd.ratios[min(number, len(ssd.ratios) - 1)]
        own = nearest == number if (nearest == number).sum() >= FEWEST else slice(None)
        # squares always exist, and each ratio also transposed
        flat = _centres(np.abs(ratios[own]), weights[own], len(given) + 1, pinned=True)[1:]
        per_map.append(tuple(min(100.0, max(LEAST_RATIO, round(float(np.exp(one)), 2))) for one in flat))
    return _with(recipe, "ssd", {"scales": (*scales, 1.0), "ratios": tuple(per_map)})


def resolve_anchors(
    recipe: DetectionRecipe, source: DetectionSource, kept: Mapping[str, Any] | None = None
) -> tuple[DetectionRecipe, dict[str, Any] | None]:
    """Return the recipe with a run's anchors, and the anchors to store in its states; report them.

    With ``anchors: given``, these are the recipe's own. With ``auto`` they are fitted to the training objects
    (:func:`fit_anchors`), unless there are too few, or the recipe's own match clearly more.

    Args:
        source: the training images.
        kept: existing anchors of the run, or of the detector it starts from; they are kept.
    """
    if recipe.anchors == "given":
        return recipe, None
    keys = KEYS[recipe.detector]
    if kept is not None:
        resolved = _with(recipe, recipe.detector, {key: kept[key] for key in keys if kept.get(key) is not None})
        say(f"anchors: those of the weights: {describe_anchors(resolved)}")
        return resolved, dict(kept)
    objects = seen_objects(source, recipe)
    resolved = recipe
    if (count := len(objects.labels)) < FEWEST:
        say(f"anchors: the recipe's own: {count} objects are too few for fitting, at least {FEWEST} are needed")
    else:
        fitted = fit_anchors(recipe, objects)
        own, new = (count_reached(objects, each) for each in (recipe, fitted))
        told = f"{new:,} of {count:,} training objects match one at IoU {REACHED} (the recipe's own: {own:,})"
        if new < own - WORSE * count:
            say(f"anchors: the recipe's own, which match more objects than fitted ones: {told}")
        else:
            resolved = fitted
            say(f"anchors: auto, {told}: {describe_anchors(fitted)}")
    settings = getattr(resolved, resolved.detector).model_dump(mode="json")
    return resolved, {key: settings[key] for key in keys}


def anchors_of(record: DetectorRecord, recipe: DetectionRecipe) -> dict[str, Any] | None:
    """Return the anchors of the detector that a run starts from, which its weights need; ``None`` if it differs.

    Other differences are reported when its weights are loaded.
    """
    return anchors_of_record(record) if record.detector == recipe.detector else None


def anchors_of_record(record: DetectorRecord) -> dict[str, Any] | None:
    """Return the settings of a detector's anchors, with SSD's scales in full; ``None`` if its record has none."""
    settings = record.ssd if record.detector == "ssd" else record.faster_rcnn
    if settings is None:
        return None
    found = settings.model_dump(mode="json")
    if record.detector == "ssd" and record.ssd is not None and record.ssd.scales is None:
        found["scales"] = anchor_scales(record.ssd, len(map_sizes(record.ssd)))
    return {key: found[key] for key in KEYS[record.detector]}


def describe_anchors(recipe: DetectionRecipe) -> str:
    """Format the sizes and ratios of a recipe's anchors as settings."""
    settings = getattr(recipe, recipe.detector).model_dump(mode="json")
    return ", ".join(f"{recipe.detector}.{key}={settings[key]}" for key in KEYS[recipe.detector])


def anchor_fit(name: str, recipe: DetectionRecipe, objects: SeenObjects, fitted_to: SeenObjects) -> AnchorFit | None:
    """Return how a recipe's anchors fit the objects of a split; ``None`` if it has none.

    Args:
        name: of the recipe.
        objects: as the recipe's network sees them (:func:`seen_objects`).
        fitted_to: the training objects, to which ``anchors: auto`` fits its anchors.
    """
    if not len(objects.labels):
        return None
    areas = np.sqrt(objects.sides.prod(axis=1))
    given, auto = count_reached(objects, recipe), None
    if recipe.anchors == "auto" and len(fitted_to.labels) >= FEWEST:
        auto = count_reached(objects, fit_anchors(recipe, fitted_to))
    if recipe.detector == "ssd":
        scaled = f"{recipe.ssd.size} x {recipe.ssd.size} pixels"
    else:
        scaled = f"a shorter side of {recipe.faster_rcnn.shorter_side} pixels"
    return AnchorFit(
        recipe=name,
        scaled=scaled,
        sizes=(float(areas.min()), float(np.median(areas)), float(areas.max())),
        objects=len(areas),
        reached=given if auto is None else auto,
        anchors="given" if auto is None else "auto",
        reached_by_given=None if auto is None else given,
    )


def check_anchors(
    spec: Spec, recipes: Mapping[str, DetectionRecipe], split: str | None = None, *, share: float | None = None
) -> dict[str, list[AnchorFit]]:
    """Return how the anchors of recipes fit the objects of each split; nothing for a split without objects.

    Args:
        spec: path of the folder, or of several that form one set.
        recipes: name -> recipe; its network does not matter.
        split: one split only; anchors are still fitted to ``train``, if it exists.
        share: share of undivided images used for training.

    Raises:
        InputError: the source cannot be opened, or invalid settings of SSD.
    """
    sources = {source.split: source for source in open_splits(spec, share=share)}
    train = next((source for name, source in sources.items() if name.startswith("train")), next(iter(sources.values())))
    chosen = [open_detection(spec, split, share=share)] if split else list(sources.values())
    found: dict[str, list[AnchorFit]] = {}
    for name, recipe in recipes.items():
        fitted_to = seen_objects(train, recipe)
        for source in chosen:
            fit = anchor_fit(name, recipe, seen_objects(source, recipe), fitted_to)
            found.setdefault(source.split, []).extend([fit] if fit else [])
    return found


def _with(recipe: DetectionRecipe, detector: str, update: dict[str, Any]) -> DetectionRecipe:
    settings = getattr(recipe, detector)
    unused = INSTEAD_OF_SCALES if "scales" in update else ()
    others = {key: value for key, value in settings.model_dump().items() if key not in unused}
    # validated again: fitted values must be valid in a recipe
    return recipe.model_copy(update={detector: type(settings).model_validate({**others, **update})})


def _centres(
    values: np.ndarray,
    weights: np.ndarray,
    count: int,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    *,
    pinned: bool = False,
) -> np.ndarray:
    """Return ``count`` ascending k-means centres of (M,) values, each within its bounds; pinned: the first is 0."""
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    low = np.full(count, -np.inf) if low is None else low
    high = np.full(count, np.inf) if high is None else high
    mass, moment = (np.concatenate([[0.0], np.cumsum(each)]) for each in (weights, weights * values))
    places = np.searchsorted(mass[1:], (np.arange(count) + 0.5) / count * mass[-1])
    centres = np.clip(values[places.clip(max=len(values) - 1)], low, high)
    for _ in range(ROUNDS):
        if pinned:
            centres[0] = 0.0
        ends = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], ends, [len(values)]])
        inside = np.diff(mass[edges])
        means = np.where(inside > 0, np.diff(moment[edges]) / np.where(inside > 0, inside, 1), centres)
        moved = np.sort(np.clip(means, low, high))
        if np.allclose(moved, centres, rtol=0, atol=1e-9):
            break
        centres = moved
    return centres


def _rising(logs: np.ndarray) -> np.ndarray:
    """Return logarithms of sizes at least 2 % apart, because SSD's scales must increase."""
    logs = logs.copy()
    for number in range(len(logs) - 2, -1, -1):
        logs[number] = min(logs[number], logs[number + 1] - math.log(1.02))
    return logs
