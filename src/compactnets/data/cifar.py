"""CIFAR-10 and CIFAR-100 as their authors publish them, through torchvision's reader."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from compactnets.data.base import ImageSource, Split
from compactnets.data.content import digest_parts
from compactnets.data.preprocess import Preprocess
from compactnets.data.presets import CIFAR
from compactnets.errors import InputError

READERS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


class CifarSource(ImageSource):
    """The published Python files of CIFAR-10 or CIFAR-100 (``cifar-10-batches-py``, ``cifar-100-python``).

    The files are pickles, which can run code when read. Each must have the published MD5 sum: torchvision's reader
    checks it before unpickling.

    Args:
        root: the folder above the published folder.
        variant: ``"cifar10"`` or ``"cifar100"``.
        split: ``"train"`` or ``"val"`` (the test images).
        spec: the source as the user named it.
        download: download files that are missing or not the published ones.

    Raises:
        InputError: a file is missing or not the published one, or the download failed.
    """

    kind = "cifar"

    def __init__(self, root: Path, variant: str, split: Split, spec: str, *, download: bool = False) -> None:
        reader = READERS[variant]
        try:
            data = reader(str(root), train=split == "train", download=download)
        except (URLError, TimeoutError, ConnectionError) as error:
            raise InputError(
                f"{reader.url} could not be downloaded ({getattr(error, 'reason', error)}); download it by other means "
                f"and unpack it in {root}"
            ) from None
        except RuntimeError as error:  # torchvision's error for missing or modified files
            raise InputError(_integrity_message(root, reader, error)) from None
        self.folder = reader.base_folder
        self.variant = variant
        self.images = data.data  # (N, 32, 32, 3) uint8
        super().__init__(spec, split, data.classes, np.asarray(data.targets, dtype=np.int64))

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def content(self) -> str:
        return digest_parts([self.images.tobytes()])

    def name(self, index: int) -> str:
        return f"{self.folder} {self.split} image {index}"

    @property
    def readable_preprocess(self) -> Preprocess:
        return self.default_preprocess

    @property
    def default_preprocess(self) -> Preprocess:
        return CIFAR[self.variant]


def find_cifar(folder: Path) -> list[tuple[Path, str]]:
    """Return (root, variant) for every published CIFAR folder that ``folder`` holds or is."""
    found = [(folder, variant) for variant, reader in READERS.items() if (folder / reader.base_folder).is_dir()]
    resolved = folder.resolve()
    found += [(resolved.parent, variant) for variant, reader in READERS.items() if resolved.name == reader.base_folder]
    return found


def _integrity_message(root: Path, reader: type[CIFAR10], error: RuntimeError) -> str:
    folder = root / reader.base_folder
    sums = [*reader.train_list, *reader.test_list, [reader.meta["filename"], reader.meta["md5"]]]
    for name, md5 in sums:
        if not (folder / name).is_file():
            return f"{folder} lacks {name}; expected {', '.join(name for name, _ in sums)}"
        if not check_integrity(str(folder / name), md5):
            return (
                f"{folder / name} was refused, unread: it is a pickle, and its MD5 sum is not that of the published "
                f"file ({md5}); fetch it again (--download)"
            )
    return f"{folder}: {' '.join(str(error).split())}"
