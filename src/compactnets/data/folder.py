"""Image folders: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, or class folders alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

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
from compactnets.data.images import read_image
from compactnets.errors import InputError

SPLIT_NAMES = ("train", *VAL_NAMES)
FLAT = ((), ("images",))  # folders in a split without class folders; the second is Tiny ImageNet's


class FolderSource(ImageSource):
    """Images in class folders; a class is named by its folder, and labels follow the sorted names.

    Class folders are searched with their sub-folders, for torchvision's extensions. The validation folder may be
    called ``val``, ``valid``, ``validation`` or ``test``; the first of these that exists is used. A folder that holds
    class folders without such a division is the split ``"val"``, whole. Hidden folders and files
    (``.ipynb_checkpoints``, ``._a.jpg``) are passed over.

    Args:
        root: the folder.
        split: ``"train"`` or ``"val"``.
        spec: what the user named the source by.

    Raises:
        InputError: the split is missing, a class folder holds no image, or training and validation folder have
            different classes.
    """

    kind = "folder"

    def __init__(self, root: Path, split: Split, spec: str) -> None:
        self.folder = split_folder(root, split, spec)
        class_names = class_folders(self.folder)
        if self.folder != root:
            for other in SPLITS:
                folder = _find_split(root, other)
                if other != split and folder is not None:
                    check_same_classes(spec, self.folder.name, class_names, folder.name, class_folders(folder))
        self.root = root
        indices = {name: index for index, name in enumerate(class_names)}
        samples = make_dataset(str(self.folder), indices, is_valid_file=is_image, allow_empty=True)
        labels = np.array([label for _, label in samples], dtype=np.int64)
        counts = np.bincount(labels, minlength=len(class_names))
        if not counts.all():
            empty = [class_names[index] for index in np.flatnonzero(counts == 0)]
            raise InputError(
                f"{self.folder}: no image in the class folder{'s' if len(empty) > 1 else ''} {shorten(empty)} "
                f"(expected {' '.join(IMG_EXTENSIONS)}; {empty[0]} holds {describe(self.folder / empty[0])})"
            )
        self.paths = [path for path, _ in samples]
        super().__init__(spec, split, class_names, labels)

    def image(self, index: int) -> Image.Image:
        return read_image(self.paths[index])

    def encoded(self, index: int) -> bytes | None:
        try:
            return Path(self.paths[index]).read_bytes()
        except OSError:
            return None

    def name(self, index: int) -> str:
        return Path(self.paths[index]).relative_to(self.root).as_posix()


def split_folder(root: Path, split: Split, spec: str) -> Path:
    """Return the folder under ``root`` that holds the class folders of ``split``.

    Raises:
        InputError: there is none; the message says what was expected and what was found.
    """
    if (folder := _find_split(root, split)) is not None:
        return folder
    names = class_folders(root)
    flat = [name for name in names if name in SPLIT_NAMES and not class_folders(root / name)]
    undivided = len(flat) < len(names) and not is_divided(root)
    inner = root / names[0] if len(names) == 1 else root
    nested = inner != root and is_divided(inner)
    if split == "val" and undivided and not nested:
        return root
    expected = "train/CLASS/" if split == "train" else f"CLASS/ in one of {', '.join(f'{name}/' for name in VAL_NAMES)}"
    hint = ""
    if nested:
        hint = f"; give {inner} instead"
    elif undivided and root.name in SPLIT_NAMES and (root.parent / "train").is_dir():
        hint = f"; give {root.parent} instead"
    elif flat and not undivided:
        hint = f"; {flat[0]}/ has no class folders, it holds {describe(root / flat[0])}"
    elif undivided:
        hint = "; class folders without train/ and val/ serve for evaluation only"
    raise MissingSplitError(f"{spec} has no {split} split: expected images in {expected}, found {describe(root)}{hint}")


def _find_split(root: Path, split: str) -> Path | None:
    """Return the folder of ``split`` if it exists and holds class folders: a class may itself be called "train"."""
    for name in ("train",) if split == "train" else VAL_NAMES:
        if (root / name).is_dir() and class_folders(root / name) not in FLAT:
            return root / name
    return None


def is_divided(root: Path) -> bool:
    """Whether ``root`` has class folders for training or validation."""
    return any(_find_split(root, split) for split in SPLITS)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of the folders in ``folder``, hidden ones left out."""
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def holds_images(folder: Path) -> bool:
    """Whether images lie in the folder itself."""
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) and entry.is_file() for entry in entries)


def is_image(path: str) -> bool:
    """Whether a path is that of an image by its ending; hidden files are not."""
    name = os.path.basename(path)
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")
