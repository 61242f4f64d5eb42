"""Image folders: layouts, order, and one clear line for each that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from compactnets.data import Augment, ImageDataset, Preprocess, open_source
from compactnets.data.folder import FolderSource
from compactnets.data.presets import IMAGENET
from compactnets.data.transform import TrainTransform
from compactnets.errors import InputError

Tree = Callable[..., Path]
PATHS = [f"{split}/{name}/{number}.png" for split in ("train", "val") for name in ("dog", "cat") for number in range(2)]


def test_agrees_with_torchvision(image_tree: Tree) -> None:
    root = image_tree(*PATHS, "train/dog/deeper/9.png", "train/notes.txt", "train/cat/list.txt", "readme.txt")
    for split, count in (("train", 5), ("val", 4)):
        source = open_source(str(root), split)
        reference = ImageFolder(str(root / split))
        assert isinstance(source, FolderSource)
        assert len(source) == count == len(reference)
        assert source.class_names == tuple(reference.classes) == ("cat", "dog")
        assert source.labels.dtype == np.int64
        assert source.labels.tolist() == reference.targets
        for index, (image, _) in enumerate(reference):
            assert source.image(index).convert("RGB").tobytes() == image.tobytes()
    assert source.name(3) == "val/dog/1.png"
    assert source.split == "val"
    assert source.spec == str(root)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_names_of_the_validation_folder(image_tree: Tree, name: str) -> None:
    root = image_tree("train/a/0.png", "train/b/0.png", f"{name}/a/0.png", f"{name}/b/0.png")
    assert open_source(str(root), "val").name(1) == f"{name}/b/0.png"
    if name != "test":
        root = image_tree("test/a/0.png", "test/b/0.png")
        assert open_source(str(root), "val").name(1) == f"{name}/b/0.png"


def test_class_folders_alone_are_the_validation_split(image_tree: Tree) -> None:
    root = image_tree("a/0.png", "b/0.png", "b/1.png", "train/0.png")  # a class may be called "train"
    source = open_source(str(root), "val")
    assert source.class_names == ("a", "b", "train")
    assert source.labels.tolist() == [0, 1, 1, 2]
    with pytest.raises(
        InputError, match=r"no train split: expected images in train/CLASS/, found a/, b/, train/; .*only"
    ):
        open_source(str(root), "train")


def test_hidden_entries_are_passed_over(image_tree: Tree) -> None:
    root = image_tree(*PATHS, "train/.ipynb_checkpoints/", "train/cat/._0.jpg", "val/.DS_Store")
    assert len(open_source(str(root), "train")) == 4


@pytest.mark.parametrize(
    ("paths", "split", "message"),
    [
        ([], "train", "is empty: expected train/CLASS"),
        (["a.png", "b.png"], "val", r"not a source of images: expected .*; found a\.png, b\.png"),
        (["train/a/0.png", "train/b/"], "train", r"no image in the class folder b .* holds nothing"),
        (["train/a/0.png", "train/b/x.heic", "train/c/"], "train", r"class folders b, c .*b holds x\.heic"),
        (["train/a/0.png"], "val", r"no val split: .*validation/, test/, found train/; .*/train with --split 0\.8$"),
        (["val/a/0.png"], "train", r"no train split: expected images in train/CLASS/, found val/$"),
        (["train/0.png", "val/0.png"], "train", r"no train split.*train/ has no class folders, it holds 0\.png"),
        (["train/0.png", "val/0.png"], "val", "no val split.*has no class folders"),
        (["train/a/0.png", "val/b/0.png", "val/a/0.png"], "train", "same classes, found that only val has b"),
        (["train/a/0.png", "val/b/0.png", "val/a/0.png"], "val", "same classes, found that only val has b"),
        (["train/a/0.png", "train/b/0.png", "val/a/", "val/b/"], "val", "no image in the class folders a, b"),
        (["val/a/0.png", "val/b/"], "val", "no image in the class folder b"),
        (["train/a/0.png", "test/b/0.png"], "val", "only test has b and only train has a"),
        (["inner/train/a/0.png", "inner/val/a/0.png"], "val", "found inner/; give .*inner instead"),
    ],
)
def test_one_clear_line(image_tree: Tree, paths: list[str], split: str, message: str) -> None:
    root = image_tree(*paths)
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(root), split)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize("paths", [["val/b/1.png"], ["val/a/", "val/b/1.png", "val/c/"]])
def test_a_class_may_lack_validation_images(
    image_tree: Tree, paths: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_tree("train/a/0.png", "train/b/0.png", "train/c/0.png", *paths)
    train, val = (open_source(str(root), split) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("a", "b", "c")
    assert val.labels.tolist() == [1]
    assert val.name(0) == "val/b/1.png"
    assert capsys.readouterr().err == f"note: {root} (val): no image of 2 of the 3 classes: a, c\n"


def test_the_train_folder_itself_points_to_its_parent(image_tree: Tree) -> None:
    root = image_tree(*PATHS)
    with pytest.raises(InputError, match=f"give {root} instead"):
        open_source(str(root / "train"), "train")


def test_unreadable_image_has_its_path(image_tree: Tree) -> None:
    root = image_tree(*PATHS)
    broken = root / "val" / "dog" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    source = open_source(str(root), "val")
    with pytest.raises(InputError, match=str(broken)):
        ImageDataset(source, IMAGENET)[2]
    (root / "val" / "cat" / "0.png").unlink()  # after the folder was indexed
    with pytest.raises(InputError, match=r"no image at .*val/cat/0\.png"):
        source.image(0)


def test_an_image_that_cannot_be_transformed_is_named(image_tree: Tree) -> None:
    root = image_tree("val/a/0.png")
    Image.new("L", (1, 60_000)).save(root / "val" / "a" / "0.png")
    with pytest.raises(InputError, match=r"^val/a/0\.png: an image of 1 x 60000 pixels"):
        ImageDataset(open_source(str(root), "val"), IMAGENET)[0]


def test_default_preprocess(image_tree: Tree) -> None:
    small = open_source(str(image_tree("val/a/0.png", "val/b/0.png", size=(24, 24), root="small")), "val")
    assert small.default_preprocess == Preprocess(size=24, resize=None, mean=IMAGENET.mean, std=IMAGENET.std)
    large = open_source(str(image_tree("val/a/0.png", "val/b/0.png", size=(80, 80), root="large")), "val")
    assert large.default_preprocess == IMAGENET


def test_fingerprint(image_tree: Tree) -> None:
    one = open_source(str(image_tree(*PATHS, root="one")), "train").fingerprint()
    moved = open_source(str(image_tree(*PATHS, root="moved")), "train").fingerprint()
    more = open_source(str(image_tree(*PATHS, "train/cat/7.png", root="more")), "train").fingerprint()
    renamed = [path.replace("dog", "fox") for path in PATHS]
    other = open_source(str(image_tree(*renamed, root="renamed")), "train").fingerprint()
    val = open_source(str(image_tree(*PATHS, root="one")), "val").fingerprint()
    assert one == moved
    assert len({one, more, other, val}) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_batches(image_tree: Tree, workers: int) -> None:
    source = open_source(str(image_tree(*PATHS)), "train")
    dataset = ImageDataset(source, TrainTransform(Augment(crop="pad", pad=2, flip=True), source.default_preprocess))
    images, labels = next(iter(DataLoader(dataset, batch_size=4, num_workers=workers)))
    assert images.shape == (4, 3, 8, 8)
    assert images.dtype == torch.float32
    assert labels.tolist() == [0, 0, 1, 1]
    assert isinstance(dataset[0][1], int)
