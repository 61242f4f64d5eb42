"""Images with masks: the layouts that are read, and one split of such a set."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from compactnets.data.base import MissingSplitError, describe, shorten
from compactnets.data.content import digest_files, digest_parts
from compactnets.data.images import FORMATS, read_image
from compactnets.data.listing import check_names, compose, entries_of, list_images
from compactnets.detection.data.base import NAMES, check_class_names, check_inside
from compactnets.detection.data.coco import CocoTree, find_files
from compactnets.errors import InputError, did_you_mean, missing_extra
from compactnets.files import as_path
from compactnets.segmentation.recipe import IGNORED
from compactnets.values import read_json, read_text

LAYOUTS = (
    "images/SPLIT and masks/SPLIT; SPLIT.txt with an image and its mask a line; JPEGImages, SegmentationClass and "
    "ImageSets/Segmentation (Pascal VOC); annotations/*.json (COCO); leftImg8bit and gtFine (Cityscapes)"
)
CLASSES = "classes.txt"  # beside them: a name a line, in the order of the values
VOC = (  # the values of its masks, from 0
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
UNKNOWN = -1  # the label of a value without a class
SIZE, VALUE, NO_MASK, NO_IMAGE, LOSSY, COLOUR, UNREADABLE = (
    *("size differs", "value without a class", "image without mask", "mask without image"),
    *("mask saved with loss", "colours instead of values", "cannot be read"),
)


class MaskError(InputError):
    """A mask that cannot be used; ``kind`` is one of the constants above."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Pairs(NamedTuple):
    """The files of a split, relative to the root, and what cannot be paired."""

    images: list[str]
    masks: list[str]
    faults: list[MaskError]


class MaskSource:
    """One split of images with masks; all files are read on access.

    Attributes:
        kind: the layout.
        spec: the source as the user named it.
        split: name of the split in the source.
        class_names: of the labels; empty if nothing names them.
        root: folder of the tree.
        pairs: the files.
        labels: (256,) int16: value of a mask -> label, :data:`IGNORED` or :data:`UNKNOWN`.
    """

    def __init__(
        self, tree: MaskTree, split: str, pairs: Pairs, class_names: Sequence[str], ignore: Sequence[int]
    ) -> None:
        self.kind, self.spec, self.root, self.split = tree.kind, tree.spec, tree.root, split
        self.class_names, self.pairs = check_names(tree.spec, class_names), pairs
        self.labels = np.full(256, UNKNOWN, dtype=np.int16)
        values = tree.values or {value: value for value in range(len(class_names))}
        for value, label in values.items():
            self.labels[value] = label
        self.labels[[*ignore, IGNORED]] = IGNORED

    def __len__(self) -> int:
        return len(self.pairs.images)

    def __repr__(self) -> str:
        classes = f"{len(self.class_names):,} classes" if self.class_names else "classes without names"
        return f"{self.split} ({self.spec}, {self.kind}): {len(self):,} images with masks of {classes}"

    def name(self, index: int) -> str:
        """Return an image's path, relative to the root."""
        return self.pairs.images[index]

    def mask_name(self, index: int) -> str:
        """Return the path of a mask, or of the file that it is in, relative to the root."""
        return self.pairs.masks[index]

    def image(self, index: int) -> Image.Image:
        """Decode an image, upright, of any mode.

        Raises:
            InputError: it cannot be read.
        """
        return read_image(self.root / self.name(index))

    def values(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Return the values of a mask as stored, (H, W) uint8.

        Args:
            size: width and height of its image.

        Raises:
            MaskError: it cannot be used.
        """
        return read_mask(self.root / self.mask_name(index))

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Return the labels of an image of this width and height, (H, W) uint8; :data:`IGNORED` has no class.

        Raises:
            MaskError: it cannot be used.
        """
        values, name = self.values(index, size), str(self.root / self.mask_name(index))
        if values.shape != size[::-1]:
            width, height = values.shape[::-1]
            raise MaskError(
                SIZE, f"{name} has {width} x {height} pixels, and its image {self.name(index)} {size[0]} x {size[1]}"
            )
        labels = self.labels[values]
        if (wrong := labels == UNKNOWN).any():
            found = np.unique(values[wrong]).tolist()
            known = np.flatnonzero((self.labels != UNKNOWN) & (self.labels != IGNORED)).tolist()
            raise MaskError(
                VALUE,
                f"{name} has {int(wrong.sum()):,} pixels of the value{'s' * (len(found) > 1)} "
                f"{shorten(list(map(str, found)))}, which no class has: expected {known[0]} to {known[-1]}, or "
                f"{shorten(list(map(str, np.flatnonzero(self.labels == IGNORED).tolist())))} to ignore",
            )
        return labels.astype(np.uint8)

    def pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Return an image and its labels.

        Raises:
            InputError: one of them cannot be used.
        """
        image = self.image(index)
        return image, self.mask(index, image.size)

    def fingerprint(self) -> str:
        """Return a digest of masks, classes and ignored values."""
        masks = digest_files(self.pairs.masks, [self.root / name for name in self.pairs.masks])
        return digest_parts([masks.encode(), *(name.encode() for name in self.class_names), self.labels.tobytes()])

    def content(self) -> str:
        """Return a digest of the images."""
        return digest_files(self.pairs.images, [self.root / name for name in self.pairs.images])


def read_mask(path: Path) -> np.ndarray:
    """Return the values of a mask in a file, (H, W) uint8: grey levels, or places in a palette.

    Raises:
        MaskError: it cannot be read, has colours, was saved with loss, or has values beyond 255.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            kind, mode = str(image.format), image.mode
            values = np.asarray(image)
    except FileNotFoundError:
        raise MaskError(NO_MASK, f"no mask at {path}") from None
    except Exception as error:  # the decoders raise anything on broken bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MaskError(UNREADABLE, f"{path} cannot be read as a mask: {reason}") from None
    if kind in ("JPEG", "MPO"):
        raise MaskError(LOSSY, f"{path} is a JPEG, which changes the values of a mask: save it as PNG again")
    if mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise MaskError(
            COLOUR,
            f"{path} has colours ({mode}), expected one value a pixel (grey, or a palette): a palette read as colour "
            f"loses its values, so save it again from the original",
        )
    if values.size and not 0 <= values.min() <= values.max() <= 255:
        raise MaskError(VALUE, f"{path} has values from {values.min()} to {values.max()}: expected 0 to 255")
    return values.astype(np.uint8)


class CocoMasks(MaskSource):
    """Polygons and run lengths of COCO; the background is class 0, and the categories follow in the order of their ids.

    As in torchvision's reference, pixels of several objects are ignored; here only where their classes differ. Crowds
    without another object are ignored.
    """

    def __init__(
        self, whole: MaskTree, split: str, file: Path, class_names: Sequence[str] | None, ignore: Sequence[int]
    ) -> None:
        tree = CocoTree(whole.root, whole.spec)
        boxes = tree.open(split)
        document = read_json(file, str(file))
        names = class_names or ("background", *boxes.class_names)
        super().__init__(whole, split, Pairs(boxes.names, [], []), names, ignore)
        if others := [name for name in boxes.class_names if name not in self.class_names]:
            raise InputError(f"{file} has categories that are no class here: {shorten(others)}")
        by_id = {each["id"]: self.class_names.index(compose(each["name"])) for each in document["categories"]}
        sizes = {each["id"]: (each.get("width"), each.get("height")) for each in document["images"]}
        self.file, self.sizes = file, [sizes[each] for each in boxes.image_ids]
        self.objects: list[list[tuple[int, Any, bool]]] = [[] for _ in boxes.names]
        place = {each: index for index, each in enumerate(boxes.image_ids)}
        for each in document["annotations"]:
            if each["image_id"] in place:
                found = (by_id[each["category_id"]], each.get("segmentation"), bool(each.get("iscrowd")))
                self.objects[place[each["image_id"]]].append(found)

    def mask_name(self, index: int) -> str:
        return str(self.file.relative_to(self.root))

    def values(self, index: int, size: tuple[int, int]) -> np.ndarray:
        width, height = size
        stated = self.sizes[index]
        if None not in stated and stated != size:
            raise MaskError(
                SIZE, f"{self.file}: {self.name(index)} has {width} x {height} pixels, stated {stated[0]} x {stated[1]}"
            )
        values, crowd = np.zeros((height, width), np.uint8), np.zeros((height, width), bool)
        for label, mask, of_many in self.objects[index]:
            if not mask:
                raise MaskError(NO_MASK, f"{self.file}: an object in {self.name(index)} has no segmentation")
            inside = _draw(mask, width, height, f"{self.file}: {self.name(index)}")
            if of_many:
                crowd |= inside
                continue
            values[inside & (values != 0) & (values != label)] = IGNORED
            values[inside & (values == 0)] = label
        values[crowd & (values == 0)] = IGNORED
        return values

    def fingerprint(self) -> str:
        return digest_parts([self.file.read_bytes(), *(name.encode() for name in self.class_names)])


def _draw(mask: Any, width: int, height: int, where: str) -> np.ndarray:
    """Return a mask of polygons or run lengths, (H, W) bool."""
    try:
        from faster_coco_eval.core import mask as library
    except ImportError:
        raise missing_extra("faster-coco-eval", "segmentation", "a mask of polygons or run lengths") from None
    try:
        packed = isinstance(mask, dict) and isinstance(mask["counts"], str)
        runs = mask if packed else library.frPyObjects(mask, height, width)
        found = library.decode(library.merge(runs) if isinstance(runs, list) else runs)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise MaskError(
            UNREADABLE, f"{where}: a segmentation cannot be drawn: {' '.join(str(error).split())}"
        ) from None
    if found.shape != (height, width):
        raise MaskError(
            SIZE, f"{where}: a segmentation of {found.shape[1]} x {found.shape[0]}, image {width} x {height}"
        )
    return np.asarray(found, dtype=bool)


@dataclass(frozen=True)
class MaskTree:
    """A folder that holds splits.

    Attributes:
        splits: name -> opens it, given class names and ignored values.
        class_names: stated by the data, if any.
        values: value of a mask -> label, unless both are the same.
    """

    kind: str
    root: Path
    spec: str
    splits: Mapping[str, Callable[[MaskTree, str, Sequence[str] | None, Sequence[int]], MaskSource]]
    class_names: tuple[str, ...] | None = None
    values: Mapping[int, int] | None = None

    def open(self, split: str, class_names: Sequence[str] | None = None, ignore: Sequence[int] = ()) -> MaskSource:
        """Open a split; ``val`` also finds ``valid`` and ``validation``.

        Args:
            class_names: instead of the data's own.
            ignore: values that belong to no class, besides 255.

        Raises:
            MissingSplitError: no such split.
            InputError: other classes than those of the data, or files that cannot be read.
        """
        name = next((each for each in NAMES.get(split, (split,)) if each in self.splits), None)
        if name is None:
            raise MissingSplitError(
                f"{self.spec} ({self.kind}) has no split {split!r}: found {shorten(sorted(self.splits), 10)}"
                f"{did_you_mean(split, self.splits)}"
            )
        if class_names is not None and self.class_names and tuple(class_names) != self.class_names:
            raise InputError(
                f"{self.spec} states the classes {shorten(self.class_names, 30)}; expected {shorten(class_names, 30)}"
            )
        return self.splits[name](self, name, class_names or self.class_names, ignore)


def find_masks(spec: str) -> MaskTree:
    """Return the images with masks in a folder, or in one up to two levels below (``VOCdevkit/VOC2012``).

    Raises:
        InputError: no such folder, or one of another layout.
    """
    path = as_path(spec)
    if not spec or not os.path.isdir(path):
        raise InputError(f"no folder at {spec!r}: expected one with {LAYOUTS}")
    if (tree := _search(path, spec)) is None:
        raise InputError(f"{spec} holds no images with masks: expected {LAYOUTS}; found {describe(path)}")
    return tree


def holds_masks(spec: str) -> bool:
    """Whether a folder's masks are all that it holds; those of Pascal VOC and COCO come with boxes."""
    try:
        path = as_path(spec)
        tree = _search(path, spec) if spec and os.path.isdir(path) else None
    except (InputError, OSError):
        return False
    return tree is not None and (tree.kind in ("folders", "cityscapes", "listed") or not _has_boxes(tree))


def _has_boxes(tree: MaskTree) -> bool:
    return tree.kind == "coco" or (tree.root / "Annotations").is_dir()


def _search(path: Path, spec: str) -> MaskTree | None:
    folders = [path]
    for _ in range(3):
        for folder in folders:
            for layout in (_folders, _cityscapes, _voc, _listed, _coco):
                if (found := layout(folder, spec)) is not None:
                    return found
        folders = [Path(entry.path) for folder in folders for entry in entries_of(folder) if entry.is_dir()][:50]
    return None


def _names(root: Path) -> tuple[str, ...] | None:
    file = root / CLASSES
    if not file.is_file():
        return None
    return check_class_names([line.strip() for line in read_text(file, str(file)).splitlines() if line.strip()])


def _opens(pairs: Callable[[], Pairs]) -> Any:
    def open_split(tree: MaskTree, split: str, names: Sequence[str] | None, ignore: Sequence[int]) -> MaskSource:
        return MaskSource(tree, split, pairs(), names or (), ignore)

    return open_split


def _folders(root: Path, spec: str) -> MaskTree | None:
    images, masks = root / "images", root / "masks"
    if not (images.is_dir() and masks.is_dir()):
        return None
    splits = [entry.name for entry in entries_of(images) if entry.is_dir() and (masks / entry.name).is_dir()]
    found = {split: _opens(partial(_match, root, images / split, masks / split)) for split in splits}
    return MaskTree("folders", root, spec, found, _names(root)) if found else None


def _match(root: Path, images: Path, masks: Path, endings: tuple[str, Sequence[str]] = ("", ("",))) -> Pairs:
    """Pair images and masks of the same name; endings that differ are left out of both."""

    def stem(path: str, folder: Path, ending: str) -> str | None:
        name = os.path.splitext(os.path.relpath(path, folder))[0]
        return compose(name.removesuffix(ending)) if name.endswith(ending) else None

    kept, choices = endings
    listed = list_images(masks).images
    for ending in choices:
        others = {key: path for path in listed if (key := stem(path, masks, ending)) is not None}
        if others:
            break
    found = {key: path for path in list_images(images).images if (key := stem(path, images, kept)) is not None}
    both = [key for key in found if key in others]
    faults = [
        MaskError(NO_MASK, f"{found[key]} has no mask: expected {masks / (key + choices[0])}.png")
        for key in found
        if key not in others
    ]
    faults += [
        MaskError(NO_IMAGE, f"{others[key]} has no image: expected {images / (key + kept)} of any format")
        for key in others
        if key not in found
    ]
    return Pairs(
        [os.path.relpath(found[key], root) for key in both],
        [os.path.relpath(others[key], root) for key in both],
        faults,
    )


def _cityscapes(root: Path, spec: str) -> MaskTree | None:
    images, masks = root / "leftImg8bit", root / "gtFine"
    if not (images.is_dir() and masks.is_dir()):
        return None
    from torchvision.datasets import Cityscapes

    known = [each for each in Cityscapes.classes if 0 <= each.train_id < IGNORED]
    values = {each.id: each.train_id for each in known}
    values |= {each.id: IGNORED for each in Cityscapes.classes if each.train_id == IGNORED and each.id >= 0}
    endings = ("_leftImg8bit", ("_gtFine_labelIds",))
    splits = [entry.name for entry in entries_of(images) if entry.is_dir()]
    found = {split: _opens(partial(_match, root, images / split, masks / split, endings)) for split in splits}
    names = tuple(each.name for each in sorted(known, key=lambda each: each.train_id))
    return MaskTree("cityscapes", root, spec, found, names, values)


def _voc(root: Path, spec: str) -> MaskTree | None:
    lists = root / "ImageSets" / "Segmentation"
    if not (lists.is_dir() and (root / "SegmentationClass").is_dir()):
        return None

    def read(file: Path) -> Pairs:
        stems = read_text(file, str(file)).split()
        return _existing(
            root, [(f"JPEGImages/{stem}.jpg", f"SegmentationClass/{stem}.png") for stem in stems], str(file)
        )

    files = [Path(entry.path) for entry in entries_of(lists) if entry.name.endswith(".txt")]
    return MaskTree("voc", root, spec, {file.stem: _opens(partial(read, file)) for file in files}, _names(root) or VOC)


def _listed(root: Path, spec: str) -> MaskTree | None:
    words = {name for names in NAMES.values() for name in names}

    def read(file: Path) -> Pairs:
        rows = [line.split() for line in read_text(file, str(file)).splitlines() if line.strip()]
        for number, row in enumerate(rows, start=1):
            if len(row) != 2:
                raise InputError(f"{file}, line {number}: expected an image and its mask, found {len(row)} names")
        return _existing(root, [(row[0], row[1]) for row in rows], str(file))

    files = [Path(entry.path) for entry in entries_of(root) if entry.name.endswith(".txt")]
    chosen = {file.stem: _opens(partial(read, file)) for file in files if file.stem in words and _is_pairs(file)}
    return MaskTree("listed", root, spec, chosen, _names(root)) if chosen else None


def _is_pairs(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = next((line.split() for line in lines if line.strip()), [])
    return len(first) == 2 and first[1].lower().endswith((".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg"))


def _existing(root: Path, pairs: Sequence[tuple[str, str]], where: str) -> Pairs:
    """Return the pairs of a list of which both files exist."""
    images, masks, faults = [], [], []
    for image, mask in pairs:
        for name in (image, mask):
            check_inside(name, f"{where}: a file")
        if not (root / mask).is_file():
            faults.append(MaskError(NO_MASK, f"{where}: {image} has no mask: expected {root / mask}"))
        elif not (root / image).is_file():
            faults.append(MaskError(NO_IMAGE, f"{where}: {mask} has no image: expected {root / image}"))
        else:
            images.append(image)
            masks.append(mask)
    return Pairs(images, masks, faults)


def _coco(root: Path, spec: str) -> MaskTree | None:
    files = find_files(root).splits

    def open_split(tree: MaskTree, split: str, names: Sequence[str] | None, ignore: Sequence[int]) -> MaskSource:
        return CocoMasks(tree, split, files[split], names, ignore)

    return MaskTree("coco", root, spec, dict.fromkeys(files, open_split)) if files else None
