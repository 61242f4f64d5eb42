"""A validation folder without class folders, and the ground-truth file with its labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from compactnets.data.base import ImageSource, MissingSplitError, check_labels, describe, shorten
from compactnets.data.content import digest_files
from compactnets.data.folder import FLAT, SPLIT_NAMES, TRAIN_FOLDERS, VAL_FOLDERS, is_divided
from compactnets.data.ground_truth import TRUTH_FILES, read_truth
from compactnets.data.images import read_image
from compactnets.data.listing import (
    check_names,
    class_folders,
    compose,
    entries_of,
    folders_called,
    holds_images,
    is_image,
    strays,
)
from compactnets.errors import InputError

MOST_CLASSES = 1_000_000  # if only numbers are given
KITS = ("ILSVRC2012_devkit_t12/data", "devkit/data")


class FlatSource(ImageSource):
    """The split ``"val"`` as images in a single folder, in the order of their names.

    The classes come from a ground truth in a format of :func:`compactnets.data.ground_truth.read_truth`. It holds
    either class names or numbers. Numbers index the sorted class folders of ``train/``. Without ``train/`` they are
    ImageNet's (for files named ``ILSVRC2012_val_*`` or a highest number of 999: WordNet identifiers from timm),
    otherwise the classes are the numbers as text.

    Args:
        root: the data set's folder, or the folder of the images.
        folder: the folder of the images.
        truth: the ground truth.
        spec: the source as the user named it.

    Raises:
        InputError: the ground truth cannot be read, does not match the images, or names classes that ``train/`` lacks.
    """

    kind = "flat"

    def __init__(self, root: Path, folder: Path, truth: Path, spec: str) -> None:
        self.root, self.folder, self.truth = root, folder, truth
        files = [entry.name for entry in entries_of(folder) if entry.is_file()]
        self.names = sorted(filter(is_image, files), key=compose)
        classes = [compose(text) for text in read_truth(truth, self.names)]
        train = next(iter(folders_called(root, TRAIN_FOLDERS)), root / "train")
        trained = check_names(str(train), class_folders(train)) if train.is_dir() else ()
        if not all(re.fullmatch(r"[0-9]{1,9}", text) for text in classes) or set(classes) <= set(trained):
            class_names = trained or tuple(sorted(set(classes)))
            positions = {name: position for position, name in enumerate(class_names)}
            if unknown := sorted(set(classes) - set(positions)):
                raise InputError(
                    f"{truth} names {len(unknown)} classes without a folder in {train}: {shorten(unknown)} (it has "
                    f"{shorten(class_names, 3)})"
                )
            labels = np.array([positions[name] for name in classes], dtype=np.int64)
        else:
            labels = np.array(classes).astype(np.int64)
            class_names = trained or _names_of_numbers(truth, self.names, int(labels.max()))
            if labels.min() == 1 and labels.max() == len(class_names):
                raise InputError(
                    f"{truth}: class numbers run from 1 to {labels.max()}; expected 0 to {len(class_names) - 1}, in "
                    f"the order of the sorted class names"
                )
            check_labels(labels, len(class_names), lambda index: f"{truth}: {self.names[index]}", "class")
        super().__init__(spec, "val", class_names, labels)
        read = {*self.names, truth.name}
        left_out = [path for path in strays(folder) if Path(path).name not in read]
        self.left_out = [path[len(str(root)) + 1 :] for path in left_out]

    def image(self, index: int) -> Image.Image:
        return read_image(self.folder / self.names[index])

    def encoded(self, index: int) -> bytes | None:
        try:
            return (self.folder / self.names[index]).read_bytes()
        except OSError:
            return None

    def content(self) -> str:
        return digest_files(self.names, [self.folder / name for name in self.names])

    def name(self, index: int) -> str:
        return (self.folder / self.names[index]).relative_to(self.root).as_posix()


def find_flat(root: Path, spec: str) -> tuple[Path, Path] | None:
    """Return the folder of a flat validation split and its ground truth; ``None`` if the split is not flat.

    The folder is ``val`` (``valid``, ``validation``, ``test``) or ``images`` within it, as in Tiny ImageNet, or
    ``root`` itself; the ground truth may be in it, above it, in ``root``, in ImageNet's development kit beside it, or,
    for Kaggle's ``ILSVRC/Data/CLS-LOC``, where Kaggle's archive has it.

    Raises:
        MissingSplitError: a flat folder without ground truth.
    """
    bare = None
    for folder in folders_called(root, VAL_FOLDERS):
        inner = class_folders(folder)
        if inner not in FLAT:
            return None
        images = folder / "images" if inner else folder
        if not holds_images(images):
            continue
        if truth := _find_truth(images, folder, root):
            return images, truth
        bare = bare or images
    undivided = any(name.lower() not in SPLIT_NAMES for name in class_folders(root)) and not is_divided(root)
    if bare is not None and not undivided:  # a class may itself be called "test"
        raise MissingSplitError(
            f"{spec} has no val split: {bare.relative_to(root)}/ has no class folders and no ground truth was found; "
            f"expected {bare.relative_to(root)}/CLASS/*.jpg, or one of {', '.join(TRUTH_FILES)} in "
            f"{', '.join(dict.fromkeys(map(str, (bare, bare.parent, root))))} (ImageNet's development kit in "
            f"{root / KITS[0]}); found {describe(root)}, and in {bare.name}/ {describe(bare)}"
        )
    if holds_images(root) and not class_folders(root) and (truth := _find_truth(root, root, root.parent)):
        return root, truth
    return None


def _find_truth(*folders: Path) -> Path | None:
    places = [*folders, *(folder / kit for folder in folders[-1:] for kit in KITS)]
    if folders[-1].parts[-2:] == ("Data", "CLS-LOC"):
        places += folders[-1].parents[1:3]
    found = (place / name for place in places for name in TRUTH_FILES if (place / name).is_file())
    return next(found, None)


def _names_of_numbers(truth: Path, files: Sequence[str], highest: int) -> tuple[str, ...]:
    from timm.data import ImageNetInfo

    imagenet: tuple[str, ...] = tuple(ImageNetInfo().label_names())  # sorted, as class folders are
    if highest == len(imagenet) - 1 or files[0].startswith("ILSVRC2012_val_"):
        return imagenet
    if highest >= MOST_CLASSES:
        raise InputError(f"{truth}: expected class numbers below {MOST_CLASSES:,}, found {highest}")
    return tuple(str(number) for number in range(highest + 1))
