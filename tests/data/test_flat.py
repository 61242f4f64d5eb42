"""Validation images in one folder: the ground truths in circulation, and what does not match."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageNetInfo
from torch.utils.data import DataLoader

from compactnets.data import ImageDataset, open_source
from compactnets.data.flat import FlatSource
from compactnets.data.folder import FolderSource
from compactnets.errors import InputError

from .helpers import noise

Tree = Callable[..., Path]
WNIDS = ("n01440764", "n01443537", "n01484850")  # the first three of ImageNet's classes
TRAIN = [f"train/{name}/0.png" for name in WNIDS]
VAL = [f"val/ILSVRC2012_val_{number:08d}.png" for number in (1, 2, 3, 4)]
LABELS = [2, 0, 0, 1]
NAMES = [Path(path).name for path in VAL]


def kaggle(rows: list[tuple[str, str]]) -> str:
    return "ImageId,PredictionString\n" + "".join(f"{Path(name).stem},{text}\n" for name, text in rows)


FORMS = {
    "caffe": ("val.txt", "".join(f"{name} {label}\n" for name, label in zip(NAMES, LABELS, strict=True))),
    "caffe without newline": (
        "val.txt",
        "\n".join(f"{name} {label}" for name, label in zip(NAMES, LABELS, strict=True)),
    ),
    "identifiers": ("val.txt", "".join(f"{name} {WNIDS[label]}\n" for name, label in zip(NAMES, LABELS, strict=True))),
    "with folders": ("val.txt", "".join(f"val/{name} {label}\n" for name, label in zip(NAMES, LABELS, strict=True))),
    "backslashes": (
        "val.txt",
        "".join(f".\\val\\{name} {label}\r\n" for name, label in zip(NAMES, LABELS, strict=True)),
    ),
    "stems": ("val.txt", "".join(f"{Path(name).stem} {label}\n" for name, label in zip(NAMES, LABELS, strict=True))),
    "other ending": (
        "val.txt",
        "".join(f"{Path(name).stem}.JPEG {n}\n" for name, n in zip(NAMES, LABELS, strict=True)),
    ),
    "tabs": ("val_map.txt", "".join(f"{name}\t{label}\n" for name, label in zip(NAMES, LABELS, strict=True))),
    "other order": ("val.txt", "".join(f"{name} {n}\n" for name, n in reversed(list(zip(NAMES, LABELS, strict=True))))),
    "commas": ("val.csv", "".join(f"{name},{WNIDS[n]}\n" for name, n in zip(NAMES, LABELS, strict=True))),
    "heading": ("labels.csv", "name,label\n" + "".join(f"{name},{n}\n" for name, n in zip(NAMES, LABELS, strict=True))),
    "kaggle": (
        "LOC_val_solution.csv",
        kaggle([(name, f"{WNIDS[n]} 85 1 499 272 {WNIDS[n]} 0 0 9 9 ") for name, n in zip(NAMES, LABELS, strict=True)]),
    ),
    "tensorflow": ("imagenet_2012_validation_synset_labels.txt", "".join(f"{WNIDS[n]}\n" for n in LABELS)),
    "byte order mark": ("val.txt", "\ufeff" + "".join(f"{name} {n}\n" for name, n in zip(NAMES, LABELS, strict=True))),
}


@pytest.mark.parametrize("place", [".", "val"])
@pytest.mark.parametrize("form", FORMS)
def test_forms(image_tree: Tree, form: str, place: str) -> None:
    root = image_tree(*TRAIN, *VAL)
    name, text = FORMS[form]
    (root / place / name).write_text(text, encoding="utf-8")
    val, train = open_source(str(root), "val"), open_source(str(root), "train")
    assert isinstance(val, FlatSource)
    assert isinstance(train, FolderSource)
    assert val.class_names == train.class_names == WNIDS
    assert val.labels.tolist() == LABELS
    assert val.labels.dtype == np.int64
    assert [val.name(index) for index in range(4)] == VAL
    for index in range(4):
        assert val.image(index).tobytes() == noise(8, 8, seed=3 + index).tobytes()
        assert val.encoded(index) == (root / VAL[index]).read_bytes()


def write_kit(folder: Path, numbers: list[int]) -> None:
    """Write what is read of ImageNet's development kit: leaves and inner nodes, not in the order of their numbers."""
    from scipy.io import savemat

    folder.mkdir(parents=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in numbers))
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    synsets = np.zeros((5, 1), dtype=[(name, object) for name in fields])
    rows = [(1, WNIDS[1], 0), (2, WNIDS[2], 0), (3, WNIDS[0], 0), (4, "n00001740", 2), (5, "n00001930", 3)]
    for row, (number, wnid, children) in zip(synsets[:, 0], rows, strict=True):
        for name, value in zip(fields, (number, wnid, "a, b", "c", children, [0], 0, 9), strict=True):
            row[name] = value
    savemat(folder / "meta.mat", {"synsets": synsets})


@pytest.mark.parametrize("kit", ["ILSVRC2012_devkit_t12/data", "devkit/data"])
@pytest.mark.parametrize("train", [TRAIN, []])
def test_development_kit(image_tree: Tree, kit: str, train: list[str]) -> None:
    root = image_tree(*train, *VAL)
    write_kit(root / kit, [2, 3, 3, 1])
    source = open_source(str(root), "val")
    assert source.class_names == WNIDS
    assert source.labels.tolist() == LABELS
    (root / kit / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file, but not really")
    with pytest.raises(InputError, match=r"meta\.mat cannot be read") as caught:
        open_source(str(root), "val")
    assert "\n" not in str(caught.value)
    (root / kit / "meta.mat").unlink()
    with pytest.raises(InputError, match=r"needs .*meta\.mat"):
        open_source(str(root), "val")


def test_development_kit_with_a_wrong_number(image_tree: Tree) -> None:
    root = image_tree(*TRAIN, *VAL)
    write_kit(root / "devkit" / "data", [2, 3, 3, 4])  # 4 is an inner node
    with pytest.raises(InputError, match=r"expected numbers of 3 classes in meta\.mat, found 4"):
        open_source(str(root), "val")


def test_kaggles_archive(image_tree: Tree) -> None:
    root = image_tree(*(f"ILSVRC/Data/CLS-LOC/{path}" for path in [*TRAIN, *VAL, "test/ILSVRC2012_test_1.png"]))
    (root / "LOC_val_solution.csv").write_text(FORMS["kaggle"][1])
    source = open_source(str(root / "ILSVRC" / "Data" / "CLS-LOC"), "val")
    assert source.labels.tolist() == LABELS
    assert source.name(0) == VAL[0]


def test_tiny_imagenet(image_tree: Tree) -> None:
    """Its training images lie in ``images`` below the class folders, its validation images in ``val/images``."""
    root = image_tree(
        *(f"train/{name}/images/{name}_0.png" for name in WNIDS), *(f"val/images/val_{n}.png" for n in range(4))
    )
    rows = [f"val_{number}.png\t{WNIDS[label]}\t0\t32\t44\t62\n" for number, label in enumerate(LABELS)]
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    assert open_source(str(root), "val").labels.tolist() == LABELS
    assert open_source(str(root), "val").name(1) == "val/images/val_1.png"
    assert open_source(str(root), "train").labels.tolist() == [0, 1, 2]


def test_the_folder_of_the_images_itself(image_tree: Tree) -> None:
    root = image_tree(*VAL)
    (root / "val.txt").write_text(FORMS["identifiers"][1])
    for spec in (root, root / "val"):
        assert open_source(str(spec), "val").labels.tolist() == LABELS
        with pytest.raises(InputError, match="has no train split"):
            open_source(str(spec), "train")


def test_names_without_training_folders(image_tree: Tree) -> None:
    """Identifiers name themselves; numbers are ImageNet's where the files or the highest number say so."""
    imagenet = tuple(ImageNetInfo().label_names())
    root = image_tree("val/a.png", "val/b.png")
    for text, names, labels in (
        ("a.png cat\nb.png ant\n", ("ant", "cat"), [1, 0]),
        ("a.png,great white shark\nb.png,ant\n", ("ant", "great white shark"), [1, 0]),
        ("a.png 3\nb.png 1\n", ("0", "1", "2", "3"), [3, 1]),
        ("a.png 999\nb.png 1\n", imagenet, [999, 1]),
    ):
        (root / "val.txt").write_text(text)
        source = open_source(str(root), "val")
        assert source.class_names == names
        assert source.labels.tolist() == labels
    root = image_tree(*VAL, root="published")
    (root / "val.txt").write_text(FORMS["caffe"][1])
    assert open_source(str(root), "val").class_names == imagenet


def test_class_folders_named_by_numbers(image_tree: Tree) -> None:
    """Where the training folders are numbers, a number is a name: sorted as text, 10 comes before 2."""
    root = image_tree(*(f"train/{number}/0.png" for number in range(11)), "val/a.png")
    (root / "val.txt").write_text("a.png 2\n")
    source = open_source(str(root), "val")
    assert source.class_names[source.labels[0]] == "2"


def test_equal_in_worker_processes(image_tree: Tree) -> None:
    root = image_tree(*TRAIN, *VAL)
    (root / "val.txt").write_text(FORMS["caffe"][1])
    source = open_source(str(root), "val")
    dataset = ImageDataset(source, source.default_preprocess)
    (batch,) = DataLoader(dataset, batch_size=4, num_workers=1)
    assert batch[1].tolist() == LABELS


BAD = {
    "missing image": (
        "val.txt",
        FORMS["caffe"][1] + "ILSVRC2012_val_00000009.png 0\n",
        "1 .*images, the first is ILSVRC2012_val_00000009",
    ),
    "missing class": ("val.txt", f"{NAMES[0]} 0\n", "no class for 3 of 4 images, the first is ILSVRC2012_val_00000002"),
    "empty class": ("val.csv", "".join(f"{name},\n" for name in NAMES), "no class for 4 of 4 images"),
    "two classes": (
        "val.txt",
        FORMS["caffe"][1] + f"{NAMES[0]} 1\n",
        "ILSVRC2012_val_00000001.png .*twice, as 2 and as 1",
    ),
    "too high": (
        "val.txt",
        FORMS["caffe"][1].replace(" 2", " 3"),
        r"ILSVRC2012_val_00000001.png: class 3 is outside the 3 class names \(0 to 2\)",
    ),
    "from one": (
        "val.txt",
        "".join(f"{name} {n + 1}\n" for name, n in zip(NAMES, LABELS, strict=True)),
        "class numbers run from 1 to 3; expected 0 to 2",
    ),
    "unknown class": (
        "val.txt",
        "".join(f"{name} fox\n" for name in NAMES),
        r"names 1 classes .*train: fox \(it has n01440764",
    ),
    "count": ("imagenet_2012_validation_synset_labels.txt", f"{WNIDS[0]}\n" * 5, "has 5 lines for 4 images"),
    "ragged": ("val.txt", f"{NAMES[0]} 0\nfox\n", "found 'fox'"),
    "empty": ("val.txt", " \n\n", r"val\.txt is empty"),
    "kaggle without class": ("LOC_val_solution.csv", kaggle([(name, "") for name in NAMES]), "no class for 4 of 4"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_line(image_tree: Tree, case: str) -> None:
    root = image_tree(*TRAIN, *VAL)
    name, text, message = BAD[case]
    (root / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(root), "val")
    assert "\n" not in str(caught.value)
    assert str(root / name) in str(caught.value)
    assert len(open_source(str(root), "train")) == 3


def test_not_text(image_tree: Tree) -> None:
    root = image_tree(*TRAIN, *VAL)
    (root / "val.txt").write_bytes(b"\xff\xfea\0")
    with pytest.raises(InputError, match=r"val\.txt is not UTF-8 text"):
        open_source(str(root), "val")


def test_no_ground_truth_says_what_was_looked_for(image_tree: Tree) -> None:
    root = image_tree(*TRAIN, *VAL, "notes.txt")
    with pytest.raises(InputError) as caught:
        open_source(str(root), "val")
    message = str(caught.value)
    for part in (
        "val/CLASS/*.jpg",
        "val.txt",
        "LOC_val_solution.csv",
        "ILSVRC2012_validation_ground_truth.txt",
        "devkit",
        "found train/, val/, notes.txt",
    ):
        assert part in message
    assert NAMES[0] in message
    assert "\n" not in message


def test_a_class_may_be_called_test(image_tree: Tree) -> None:
    root = image_tree("cat/0.png", "test/0.png")
    assert open_source(str(root), "val").class_names == ("cat", "test")


def test_first_of_several_folders(image_tree: Tree) -> None:
    """Kaggle's test images have no ground truth; a validation folder of another name is taken."""
    root = image_tree(*TRAIN, "val/x.png", *(f"validation/{name}/0.png" for name in WNIDS))
    assert open_source(str(root), "val").name(0) == f"validation/{WNIDS[0]}/0.png"


def test_the_published_sample(image_tree: Tree, shared: Path) -> None:
    """Real photographs written flat have the labels that they came with."""
    sample = open_source(str(shared / "data" / "imagenet_sample"), "val")
    root = image_tree()
    (root / "val").mkdir()
    with (root / "LOC_val_solution.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("ImageId", "PredictionString"))
        for index in range(0, 500, 50):
            sample.image(index).save(root / "val" / f"ILSVRC2012_val_{index:08d}.JPEG")
            writer.writerow((f"ILSVRC2012_val_{index:08d}", f"{sample.class_names[sample.labels[index]]} 0 0 1 1 "))
    source = open_source(str(root), "val")
    names = [source.class_names[label] for label in source.labels]
    assert names == [sample.class_names[sample.labels[index]] for index in range(0, 500, 50)]
