"""Ground-truth files of flat validation folders, in the common formats."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from compactnets.data.base import shorten
from compactnets.data.listing import ENDINGS, compose
from compactnets.errors import InputError

KIT = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE = "LOC_val_solution.csv"
TRUTH_FILES = (  # the first that exists is used
    "val.txt",
    "validation.txt",
    "val_map.txt",
    "val_list.txt",
    "val_labels.txt",
    "val_annotations.txt",  # Tiny ImageNet
    "val.csv",
    "val_labels.csv",
    "labels.csv",
    KAGGLE,
    "imagenet_2012_validation_synset_labels.txt",  # TensorFlow's
    KIT,
)
MOST_BYTES = 1 << 28


def read_truth(path: Path, images: Sequence[str]) -> list[str]:
    """Return the class of every image as written in the file: names, or numbers as text.

    Two formats are read, with or without a header line. Either each line has an image's name (with or without folder
    and extension) and its class, separated by space, tab or comma (``val.txt``; the second of more columns counts, and
    its first word in Kaggle's ``LOC_val_solution.csv``). Or each line has only a class, in the order of the sorted
    image names: a name, or a number of the development kit (``ILSVRC2012_validation_ground_truth.txt``), which the
    ``meta.mat`` beside it translates.

    Args:
        path: the file.
        images: file names, sorted; not empty.

    Raises:
        InputError: the file cannot be read, or does not have one class for every image.
    """
    rows = _rows(path)
    if all(len(row) == 1 for row in rows):
        classes = [row[0] for row in rows]
        if len(classes) != len(images):
            raise InputError(
                f"{path} has {len(classes):,} lines for {len(images):,} images; expected a class for every image, in "
                f"the order of their names"
            )
    else:
        classes = _by_name(path, rows, images)
    return _translate(path, classes) if path.name == KIT else classes


def _rows(path: Path) -> list[list[str]]:
    """Return the lines as lists of one or two texts: image and class, or class."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes: too large for a ground truth")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"{path} is empty: expected lines of image and class")
    try:
        if all("," in line for line in lines):
            rows = [[cell.strip() for cell in row[:2]] for row in csv.reader(lines)]
        elif all("\t" in line for line in lines):
            rows = [[cell.strip() for cell in line.split("\t")[:2]] for line in lines]
        else:
            rows = [line.rsplit(None, 1) for line in lines]
    except csv.Error as error:
        raise InputError(f"{path}: {error}") from None
    if len({len(row) for row in rows}) > 1:
        odd = next(index for index, row in enumerate(rows) if len(row) != len(rows[0]))
        raise InputError(
            f"{path}: expected image and class in every line or a class in every line, found {lines[odd]!r}"
        )
    if path.name == KAGGLE:  # the class, and its boxes as four numbers each
        rows = [[row[0], row[1].split()[0] if row[1] else ""] for row in rows if len(row) == 2]
    return rows


def _by_name(path: Path, rows: list[list[str]], images: Sequence[str]) -> list[str]:
    """Return the class of every image from rows of image and class."""
    stems = Counter(compose(Path(image).stem) for image in images)
    known = {stem: image for image in images if stems[stem := compose(Path(image).stem)] == 1}
    known |= {compose(image): image for image in images}
    heading, first = rows[0][0], rows[0]
    if heading not in known and not heading.lower().endswith(ENDINGS) and not re.search(r"\d", heading):
        rows = [row for row in rows if row is not first]
    found: dict[str, str] = {}
    lost = []
    for name, text in rows:
        name = compose(re.split(r"[/\\]", name)[-1])
        image = known.get(name)
        if image is None and name.lower().endswith(ENDINGS):
            image = known.get(Path(name).stem)  # a copy in another format
        if image is None:
            lost.append(name)
        elif found.setdefault(image, text) != text:
            raise InputError(f"{path}: {image} is listed twice, as {found[image]} and as {text}")
    if lost:
        raise InputError(
            f"{path} has a class for {len(lost):,} missing images, the first is {lost[0]} (found "
            f"{len(images):,}: {shorten(images, 2)})"
        )
    if bare := [image for image in images if not found.get(image)]:
        raise InputError(f"{path} has no class for {len(bare):,} of {len(images):,} images, the first is {bare[0]}")
    return [found[image] for image in images]


def _translate(path: Path, numbers: Sequence[str]) -> list[str]:
    """Return the WordNet identifiers for the numbers of ImageNet's development kit."""
    from scipy.io import loadmat

    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise InputError(f"{path} needs the development kit's meta.mat beside it, which defines its numbers")
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        names = {
            str(int(synset["ILSVRC2012_ID"])): str(synset["WNID"])
            for synset in synsets
            if int(synset["num_children"]) == 0
        }
    except Exception as error:  # broken files can make the reader raise anything
        raise InputError(
            f"{meta} cannot be read as the development kit's: {' '.join(str(error).split())[:150]}"
        ) from None
    if unknown := sorted(set(numbers) - set(names)):
        raise InputError(f"{path}: expected numbers of {len(names)} classes in {meta.name}, found {shorten(unknown)}")
    return [names[number] for number in numbers]
