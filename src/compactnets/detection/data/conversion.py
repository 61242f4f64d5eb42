"""Convert images with boxes to Pascal VOC or COCO."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np

from compactnets.console import Tracker
from compactnets.data.base import describe, shorten
from compactnets.data.dividing import check_new, place_file, space_for
from compactnets.detection.data import voc
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.opening import Spec, find_tree, open_splits
from compactnets.detection.data.problems import OnBad
from compactnets.detection.data.table import box_areas
from compactnets.detection.data.writers import write_coco, write_voc
from compactnets.errors import InputError, did_you_mean
from compactnets.files import as_path
from compactnets.folders import check_folder, entries, writing

Format = Literal["voc", "coco"]
IMAGES = {"voc": voc.IMAGES, "coco": "images"}


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        output: the folder.
        format: ``"voc"`` or ``"coco"``.
        splits: name -> number of images.
        images: number of image files; splits may share them.
        objects: number of their objects.
        losses: a line for everything that the format cannot express, or that was changed.
    """

    output: str
    format: str
    splits: dict[str, int]
    images: int
    objects: int
    losses: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def convert(
    spec: Spec,
    to: Format,
    output: str | Path,
    *,
    link: bool = False,
    share: float | None = None,
    bad_boxes: OnBad = "raise",
) -> Conversion:
    """Write every split of a source as a Pascal VOC tree or in COCO's format.

    COCO's files are ``annotations/instances_SPLIT.json`` beside one folder ``images/``, so splits that share an image
    share its file. The folder is written completely or not at all.

    Args:
        spec: the source (:func:`open_detection`).
        to: ``"voc"`` or ``"coco"``.
        output: folder to write; must be empty or not exist.
        link: hard links instead of copies of the images.
        share: share of undivided images to write as ``train``; the rest is ``val``.
        bad_boxes: ``"drop"`` skips images with unreadable annotations and non-finite boxes.

    Raises:
        InputError: the source cannot be opened or has unreadable annotations or non-finite boxes; an image is missing;
            the folder is not empty or cannot be written.
    """
    output = as_path(output)
    if to not in get_args(Format):
        raise InputError(f"to must be voc or coco, found {to!r}{did_you_mean(to, get_args(Format))}")
    folder = check_folder(output)
    if folder.exists() and entries(folder):
        raise InputError(
            f"{output} must be an empty folder or not exist: found in it {describe(output)} (and hidden files, if any)"
        )
    sources = open_splits(spec, share=share, union=True)
    dropped: list[str] = []
    if bad_boxes == "drop":
        sources = [_drop(source, dropped) for source in sources]
    for source in sources:
        _check_annotations(source)
        _check_objects(source)
    _check_images(sources)
    if to == "voc":
        _check_for_voc(sources)
    file_names = _name_files(sources)
    notes = [f"{source.split}: {note}" for source in sources for note in source.notes]
    losses = [*dropped, *notes, *_losses(sources, to, file_names)]
    space = space_for(output, [sources[0].root / name for name in file_names], link=link)
    space.check()
    with writing(output) as partial:
        try:
            images = partial / IMAGES[to]
            images.mkdir(parents=True)
            (write_voc if to == "voc" else write_coco)(partial, sources, file_names)
            for name in Tracker(file_names, len(file_names), "linking images" if link else "copying images"):
                _place(sources[0].root / name, images / file_names[name], link)
        except OSError as error:
            raise InputError(f"cannot write {output}: {space.why(error)}") from None
    return Conversion(
        str(output),
        to,
        {source.split: len(source) for source in sources},
        len(file_names),
        _count_objects(sources),
        losses,
    )


def split_detection(
    spec: Spec, output: str | Path, share: float = 0.8, *, link: bool = False, bad_boxes: OnBad = "raise"
) -> Conversion:
    """Split undivided images with boxes into ``train`` and ``val``, as Pascal VOC or otherwise as COCO.

    The two are those of :class:`compactnets.detection.data.combining.DividedTree`.

    Args:
        spec: the source (:func:`open_detection`).
        output: folder to write; must not exist.
        share: share of images for training.
        link: hard links instead of copies of the images.
        bad_boxes: as for :func:`convert`.

    Raises:
        InputError: as :func:`convert`; the source is already split, or the folder exists.
    """
    output = as_path(output)
    check_new(output)
    tree = find_tree(spec, share)
    to: Format = "voc" if tree.kind == "voc" else "coco"
    return convert(spec, to, output, link=link, share=share, bad_boxes=bad_boxes)


def _drop(source: DetectionSource, dropped: list[str]) -> DetectionSource:
    """Return the part of a split that can be written, and add a line about the rest."""
    if faults := [*source.faults.values(), *source.strays]:
        dropped.append(
            f"{source.split}: {len(source.faults):,} of {len(source):,} images left out, {len(faults):,} annotations "
            f"cannot be read, the first: {faults[0]}"
        )
        source = source.pick([index for index in range(len(source)) if index not in source.faults])
        source.faults, source.strays = {}, []
    rows = np.zeros(len(source.table.labels), dtype=bool)
    for bad, what in _bad_objects(source):
        rows |= bad
        if bad.any():
            dropped.append(f"{source.split}: {int(bad.sum()):,} objects left out: {what}")
    return source.without(rows) if rows.any() else source


def _check_annotations(source: DetectionSource) -> None:
    if faults := [*source.faults.values(), *source.strays]:
        more = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{more}; fix it, or skip such images with --bad-boxes drop")


def _bad_objects(source: DetectionSource) -> list[tuple[np.ndarray, str]]:
    table = source.table
    return [
        (table.labels < 0, "a class that is not among those of the source"),
        (~np.isfinite(table.boxes).all(axis=1), "a box that is not of finite numbers"),
    ]


def _check_objects(source: DetectionSource) -> None:
    table = source.table
    for rows, what in _bad_objects(source):
        if rows.any():
            row = int(rows.argmax())
            index = int(np.searchsorted(table.offsets, row, side="right")) - 1
            number = row - int(table.offsets[index])
            raise InputError(
                f"{source.annotation(index)}: {source.name(index)}, object {number + 1} "
                f"({source.class_name(index, number)}; {source.written_box(index, number)}) has {what}: fix it "
                f"before conversion (compactnets data check lists all), or skip it with --bad-boxes drop"
            )


def _check_images(sources: Sequence[DetectionSource]) -> None:
    for source in sources:
        if len(set(source.names)) < len(source):
            ((name, _),) = Counter(source.names).most_common(1)
            raise InputError(f"{source.annotation(0)}: {name} must be one image of {source.split}, found it twice")


def _check_for_voc(sources: Sequence[DetectionSource]) -> None:
    """Raise :class:`InputError` if splits contradict each other, or a class name is invalid in XML."""
    for name in sources[0].class_names:
        if not name.isprintable() or name != name.strip():
            raise InputError(f"{sources[0].annotation(0)}: XML cannot hold the class name {name!r}: change it first")
    contents: dict[str, bytes] = {}
    for source in sources:
        for index, name in enumerate(source.names):
            content = source.table.content(index)
            if contents.setdefault(name, content) != content:
                raise InputError(
                    f"{source.annotation(index)}: {name} has other boxes in {source.split} than in an earlier split; "
                    f"Pascal VOC has one annotation for an image"
                )


def _name_files(sources: Sequence[DetectionSource]) -> dict[str, str]:
    """Map every image's path in the source to its output file name.

    Folders are dropped from the names, and all stems differ, as Pascal VOC requires, even on case-insensitive file
    systems.
    """
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for source in sources:
        for name in source.names:
            if name in chosen:
                continue
            path = PurePosixPath(name)
            stem = re.sub(r"[\s\x00-\x1f]+", "_", path.stem)  # a list has a name per line
            candidates = (f"{source.split}_{stem}", *(f"{source.split}_{stem}_{number}" for number in range(2, 1000)))
            free = next((one for one in (stem, *candidates) if one.casefold() not in taken), None)
            if free is None:
                raise InputError(f"{source.spec}: more than 1,000 images are called {stem}")
            taken.add(free.casefold())
            chosen[name] = free + path.suffix
    return chosen


def _count_objects(sources: Sequence[DetectionSource]) -> int:
    """Count the objects of every image once, whichever splits share it."""
    counts: dict[str, int] = {}
    for source in sources:
        counts.update(zip(source.names, np.diff(source.table.offsets).tolist(), strict=True))
    return sum(counts.values())


def _losses(sources: Sequence[DetectionSource], to: Format, file_names: dict[str, str]) -> list[str]:
    """Describe what the new format lacks or represents differently."""
    losses = []
    if renamed := [f"{old} as {new}" for old, new in file_names.items() if PurePosixPath(old).name != new]:
        losses.append(f"{len(renamed):,} images have new names: {shorten(renamed, 3)}")
    if extras := sorted({what for source in sources for what in source.extras}):
        losses.append(f"left out: {', '.join(extras)}")
    tables = [source.table for source in sources]
    if to == "coco":
        if difficult := sum(int(table.difficult.sum()) for table in tables):
            losses.append(
                f'{difficult:,} difficult objects have "ignore": 1, which pycocotools ignores: it counts them'
            )
        return losses
    if crowd := sum(int(table.crowd.sum()) for table in tables):
        losses.append(f"{crowd:,} crowd boxes are written as difficult: Pascal VOC has no crowds")
    boxes = np.concatenate([table.boxes for table in tables])
    areas = np.concatenate([table.areas for table in tables])
    if masks := int((~np.isclose(areas, box_areas(boxes), rtol=1e-5)).sum()):
        losses.append(f"{masks:,} areas are mask areas and left out: Pascal VOC only has box areas")
    if broken := int((np.round(boxes) != np.round(boxes, 6)).any(axis=1).sum()):
        losses.append(
            f"{broken:,} boxes have fractions of pixels and are written as decimals, which some readers reject"
        )
    present = {sources[0].class_names[label] for table in tables for label in np.unique(table.labels)}
    if voc.order_classes(present) != sources[0].class_names:
        losses.append(
            f"Pascal VOC has no list of classes: on reading, the classes are those of the objects, by name (here they "
            f"were {shorten(sources[0].class_names)})"
        )
    return losses


def _place(image: Path, target: Path, link: bool) -> None:
    if not image.exists():
        raise InputError(f"no image at {image}: compactnets data check lists all that are missing")
    place_file(image, target, link=link)
