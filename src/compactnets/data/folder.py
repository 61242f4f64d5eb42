"""Image folders: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, or class folders alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from compactnets.data.base import (
    SPLITS,
    VAL_NAMES,
    ImageSource,
    MissingSplitError,
    Split,
    check_same_classes,
    describe,
    shorten,
)
from compactnets.data.content import digest_files
from compactnets.data.images import read_image
from compactnets.data.listing import (
    ENDINGS,
    check_names,
    class_folders,
    folders_called,
    holds_images,
    is_image,
    list_images,
    printable,
    strays,
)
from compactnets.errors import InputError

TRAIN_FOLDERS, VAL_FOLDERS = ("train", "training"), (*VAL_NAMES, "testing")  # with any capitals
SPLIT_NAMES = (*TRAIN_FOLDERS, *VAL_FOLDERS)
SPLIT_WORDS = {*SPLIT_NAMES, "trn", "tst", "eval", "evaluation", "dev", "holdout", "trainval"}
FLAT = ((), ("images",))  # folders in a split without class folders; the second is Tiny ImageNet's


class ImageFiles(ImageSource):
    """Images in files of their own.

    Attributes:
        paths: of the files, one for each image.
    """

    paths: Sequence[str]

    def image(self, index: int) -> Image.Image:
        return read_image(self.paths[index])

    def encoded(self, index: int) -> bytes | None:
        try:
            return Path(self.paths[index]).read_bytes()
        except OSError:
            return None


class FolderSource(ImageFiles):
    """Images in class folders; a class is named by its folder, and labels follow the sorted names.

    Class folders are searched recursively for images (:mod:`compactnets.data.listing`). The
    validation folder may be called ``val``, ``valid``, ``validation``, ``test`` or ``testing``, the other ``train`` or
    ``training``, with any capitals; the first of these that exists is used. A folder of class folders without such a
    division is entirely the split ``"val"``. Folders that look like splits under other names (``train_images``) are
    rejected. A class may lack validation images. If all classes have the same sub-folders, a warning says what is read
    as classes. Hidden folders and files (``.ipynb_checkpoints``, ``._a.jpg``) and system files (``@eaDir``,
    ``Thumbs.db``) are ignored; ``left_out`` lists the rest.

    Args:
        root: the folder.
        split: ``"train"`` or ``"val"``.
        spec: the source as the user named it.

    Raises:
        InputError: the split is missing, a class folder holds no image or cannot be read, the name of one is not UTF-8,
            or the validation folder has a class that the training folder lacks.
    """

    kind = "folder"

    def __init__(self, root: Path, split: Split, spec: str) -> None:
        self.folder = split_folder(root, split, spec)
        folders = class_folders(self.folder)
        names = class_names = check_names(str(self.folder), folders)
        self.divided = self.folder != root
        other = _find_split(root, "val" if split == "train" else "train") if self.divided else None
        if not self.divided:
            _check_division(root, folders)
        elif other is not None:
            others = check_names(str(other), class_folders(other))
            class_names, evaluated = (names, others) if split == "train" else (others, names)
            if set(evaluated) - set(class_names):  # fewer are fine
                check_same_classes(spec, self.folder.name, names, other.name, others)
        self.root = root
        listings = [list_images(self.folder / name) for name in folders]
        if split == "val" and other is not None:  # where the training images say what the classes are
            empty = [] if any(listing.images for listing in listings) else [*folders]
        else:
            empty = [name for name, listing in zip(folders, listings, strict=True) if not listing.images]
        if empty:
            raise InputError(
                f"{self.folder}: no image in the class folder{'s' if len(empty) > 1 else ''} {shorten(empty)} "
                f"(expected {' '.join(ENDINGS)}; {empty[0]} holds {describe(self.folder / empty[0])})"
            )
        self.paths = [path for listing in listings for path in listing.images]
        places = np.array([class_names.index(name) for name in names])
        labels = np.repeat(places, [len(listing.images) for listing in listings])
        super().__init__(spec, split, class_names, labels)
        outside = [] if self.folder == root else [path for path in strays(root) if is_image(path)]
        left_out = [*outside, *strays(self.folder), *(path for listing in listings for path in listing.left_out)]
        self.left_out = [_relative(path, root) for path in left_out]

    def content(self) -> str:
        return digest_files([_relative(path, self.folder) for path in self.paths], self.paths)

    def name(self, index: int) -> str:
        return _relative(self.paths[index], self.root)


def _check_division(root: Path, folders: Sequence[str]) -> None:
    """Check that supposed class folders are not splits under unknown names.

    Raises:
        InputError: every name has a split's word in it, and the folders hold folders, not images.
    """
    if len(folders) < 2 or any(holds_images(root / name) for name in folders):
        return
    inner = [class_folders(root / name) for name in folders]
    named = all(SPLIT_WORDS & set(re.split(r"[^a-z]+", name.lower())) for name in folders)
    if named and all(inner):
        raise InputError(
            f"{root} holds {shorten(folders)}, which contain folders and look like splits, not classes: "
            f"rename them to {TRAIN_FOLDERS[0]} and {VAL_NAMES[0]}"
        )
    if len(inner[0]) > 1 and len(set(inner)) == 1:
        warnings.warn(
            f"{printable(root)}: its folders {shorten(folders)} are read as the classes, and {shorten(inner[0])} in "
            "each of them as parts of one class",
            stacklevel=2,
        )


def split_folder(root: Path, split: Split, spec: str) -> Path:
    """Return the folder under ``root`` that holds the class folders of ``split``.

    Raises:
        InputError: there is none; the message says what was expected and what was found.
    """
    if (folder := _find_split(root, split)) is not None:
        return folder
    names = class_folders(root)
    flat = [name for name in names if name.lower() in SPLIT_NAMES and not class_folders(root / name)]
    undivided = len(flat) < len(names) and not is_divided(root)
    inner = root / names[0] if len(names) == 1 else root
    nested = inner != root and is_divided(inner)
    if split == "val" and undivided and not nested:
        return root
    expected = "train/CLASS/" if split == "train" else f"CLASS/ in one of {', '.join(f'{name}/' for name in VAL_NAMES)}"
    hint = ""
    if nested:
        hint = f"; give {inner} instead"
    elif undivided and root.name.lower() in SPLIT_NAMES and folders_called(root.parent, TRAIN_FOLDERS):
        hint = f"; give {root.parent} instead"
    elif flat and not undivided:
        hint = f"; {flat[0]}/ has no class folders, it holds {describe(root / flat[0])}"
    elif undivided:
        hint = (
            "; class folders without train/ and val/ are for evaluation only: divide them with --split 0.8, or write "
            "both with compactnets data split"
        )
    elif split == "val" and (train := _find_split(root, "train")) is not None:
        hint = f"; to evaluate on some of the training images, give {train} with --split 0.8"
    raise MissingSplitError(f"{spec} has no {split} split: expected images in {expected}, found {describe(root)}{hint}")


def _find_split(root: Path, split: str) -> Path | None:
    """Return the folder of ``split`` if it exists and holds class folders: a class may itself be called "train".

    Raises:
        InputError: two names that differ only in capitals.
    """
    found = [
        folder
        for folder in folders_called(root, TRAIN_FOLDERS if split == "train" else VAL_FOLDERS)
        if class_folders(folder) not in FLAT
    ]
    if len(found) > 1 and found[0].name.lower() == found[1].name.lower():
        raise InputError(f"{root} holds {found[0].name}/ and {found[1].name}/: expected one of them")
    return found[0] if found else None


def is_divided(root: Path) -> bool:
    """Whether ``root`` has class folders for training or validation."""
    return any(_find_split(root, split) for split in SPLITS)


def _relative(path: str, root: Path) -> str:
    end = "/" if path.endswith("/") else ""
    return Path(path).relative_to(root).as_posix() + end
