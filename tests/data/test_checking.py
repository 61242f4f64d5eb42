"""The check of a source: every problem that was planted is found, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from compactnets.data import Augment, make_eval_loader, open_source
from compactnets.data.checking import check_images, check_source
from compactnets.data.examination import same_images
from compactnets.data.part import PartOfSource
from compactnets.data.presets import IMAGENET
from compactnets.data.report import SourceReport
from compactnets.data.transform import TrainTransform
from compactnets.errors import InputError

from .helpers import encode, noise, write_shard

Tree = Callable[..., Path]
PATHS = [f"{split}/{name}/{number}.png" for split in ("train", "val") for name in ("cat", "dog") for number in range(3)]


def names(groups: list) -> list[list[str]]:
    return [[found.name for found in group] for group in groups]


def test_clean(image_tree: Tree) -> None:
    report = check_source(str(image_tree(*PATHS)))
    assert report.clean
    assert (report.kind, list(report.splits), report.notes) == ("folder", ["train", "val"], [])
    train = report.splits["train"]
    assert (train.images, train.unreadable, train.classes) == (6, 0, 2)
    assert train.widths == train.heights == (8, 8, 8)
    assert (train.modes, train.formats) == ({"RGB": 6}, {"PNG": 6})
    assert (train.smallest_class, train.largest_class) == (("cat", 3), ("cat", 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_planted_problems(image_tree: Tree, workers: int) -> None:
    root = image_tree(*PATHS)

    def copy(source: str, target: str, **options: object) -> None:
        with Image.open(root / source) as image:
            image.save(root / target, **options)

    truncated = root / "val" / "dog" / "2.png"
    truncated.write_bytes(truncated.read_bytes()[:60])
    (root / "train" / "cat" / "text.jpg").write_text("no image")
    copy("train/cat/0.png", "train/dog/copy.png")  # mislabelled
    copy("train/cat/1.png", "val/cat/other format.bmp")  # leaked: the same pixels in another file
    copy("train/dog/0.png", "train/dog/again.png", compress_level=0)  # a copy
    copy("val/dog/0.png", "train/cat/both.png")  # leaked, and mislabelled
    report = check_source(str(root), workers=workers)
    assert not report.clean
    assert [(found.split, found.name, found.class_name) for found in report.unreadable] == [
        ("train", "train/cat/text.jpg", "cat"),
        ("val", "val/dog/2.png", "dog"),
    ]
    assert "text.jpg is not an image of a known format" in report.unreadable[0].reason
    assert str(truncated) in report.unreadable[1].reason
    assert names(report.conflicts) == [
        ["train/cat/0.png", "train/dog/copy.png"],
        ["train/cat/both.png", "val/dog/0.png"],
    ]
    assert names(report.leaks) == [
        ["train/cat/1.png", "val/cat/other format.bmp"],
        ["train/cat/both.png", "val/dog/0.png"],
    ]
    assert report.notes == ["train: 1 images are copies of another of the same class"]
    assert (report.splits["train"].images, report.splits["train"].unreadable) == (10, 1)
    lines = list(report.lines())
    assert "same image under two classes: 2" in lines
    assert "  train/cat/0.png (train, cat) = train/dog/copy.png (train, dog)" in lines
    assert "note: train: 1 images are copies of another of the same class" in lines
    record = json.loads(json.dumps(report.to_dict()))
    assert record["clean"] is False
    assert record["leaks"][0][1] == {
        "split": "val",
        "index": 2 + 1,
        "name": "val/cat/other format.bmp",
        "class_name": "cat",
        "reason": "",
    }


def test_one_split_alone(image_tree: Tree) -> None:
    root = image_tree("train/cat/0.png", "val/cat/0.png")
    (root / "val/cat/0.png").write_bytes((root / "train/cat/0.png").read_bytes())
    assert check_source(str(root)).leaks
    for split in ("train", "val"):
        report = check_source(str(root), split)  # type: ignore[arg-type]
        assert report.clean
        assert list(report.splits) == [split]


def test_a_split_that_is_not_there(image_tree: Tree) -> None:
    """Both splits are checked where both are there; asked for by name, a missing one is an error."""
    root = image_tree("cat/0.png", "dog/0.png")
    report = check_source(str(root))
    assert list(report.splits) == ["val"]
    assert len(report.notes) == 1
    assert "has no train split" in report.notes[0]
    with pytest.raises(InputError, match="has no train split"):
        check_source(str(root), "train")
    (root / "empty").mkdir()
    with pytest.raises(InputError, match="no image in the class folder empty"):
        check_source(str(root))


def test_pixels_decide(image_tree: Tree) -> None:
    """Grey and RGB of the same look are the same; the same bytes as another shape, or one other pixel, are not."""
    root = image_tree("val/a/", "val/b/")
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    grey = Image.fromarray(pixels)
    grey.save(root / "val/a/grey.png")
    grey.convert("RGB").save(root / "val/b/colour.png")
    Image.fromarray(pixels.reshape(4, 16)).save(root / "val/b/shape.png")
    pixels[7, 7] = 0
    Image.fromarray(pixels).save(root / "val/b/pixel.png")
    report = check_source(str(root))
    assert names(report.conflicts) == [["val/a/grey.png", "val/b/colour.png"]]
    assert report.splits["val"].modes == {"L": 3, "RGB": 1}


def test_sizes(image_tree: Tree) -> None:
    root = image_tree("val/a/")
    for width, height in ((5, 9), (7, 2), (100, 3)):
        noise(width, height).save(root / f"val/a/{width}.png")
    summary = check_source(str(root)).splits["val"]
    assert (summary.widths, summary.heights) == ((5, 7, 100), (2, 3, 9))


def test_nothing_readable(image_tree: Tree) -> None:
    root = image_tree("val/a/0.jpg", "val/a/1.jpg", "val/b/0.jpg")
    report = check_source(str(root))
    assert len(report.unreadable) == 3
    assert not report.conflicts  # two that cannot be read are not the same image
    assert report.splits["val"].widths is None
    assert "cannot be read: 3" in list(report.lines())


def test_rare_and_missing_classes(image_tree: Tree, tmp_path: Path) -> None:
    root = image_tree("val/rare/0.png", *(f"val/common/{number}.png" for number in range(10)))
    assert check_source(str(root)).notes[0] == "val: common has 10 images, rare only 1"
    blobs = [encode(noise(8, 8, seed=seed)) for seed in range(2)]
    write_shard(tmp_path / "parquet" / "val.parquet", [0, 0], ("cat", "dog", "fox"), images=blobs)
    assert check_source(str(tmp_path / "parquet")).notes[0] == "val: 2 classes have no image: dog, fox"


def test_pixels_whose_range_is_unknown(image_tree: Tree) -> None:
    root = image_tree("val/a/")
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(root / "val/a/0.tiff")
    (found,) = check_source(str(root)).unreadable
    assert "floating-point" in found.reason


def test_long_lists_are_cut_in_text_only(image_tree: Tree) -> None:
    root = image_tree(*(f"val/a/{number:02d}.jpg" for number in range(30)))
    report = check_source(str(root))
    lines = list(report.lines(20))
    assert lines.count("  and 10 more (--json lists all)") == 1
    assert len(report.to_dict()["unreadable"]) == 30


def test_against_all_pairs() -> None:
    """The groups of equal digests are those that a comparison of every pair gives."""
    digests = np.random.default_rng(0).integers(0, 12, (200, 2)).astype(np.uint64)
    groups = {tuple(group.tolist()) for group in same_images(digests)}
    expected = set()
    for row in digests:
        members = tuple(index for index in range(200) if (digests[index] == row).all())
        if len(members) > 1 and row.any():
            expected.add(members)
    assert groups == expected
    assert len(groups) > 20
    assert not list(same_images(np.zeros((0, 2), dtype=np.uint64)))


def test_digits() -> None:
    """A source without files: pixels of 17 levels at 8 x 8, all different."""
    report = check_images([open_source("digits", "train"), open_source("digits", "val")], workers=0)
    assert isinstance(report, SourceReport)
    assert report.clean
    assert report.splits["train"].formats == {}
    assert report.splits["val"].modes == {"L": 360}


def test_the_published_sample(shared: Path) -> None:
    report = check_source(str(shared / "data" / "imagenet_sample"), "val", workers=0)
    assert report.clean
    assert report.splits["val"].formats == {"JPEG": 500}


def zoo(folder: Path) -> list[str]:
    """Write unusual images, good and bad; return their names."""
    folder.mkdir(parents=True)
    picture, grey = noise(40, 30), noise(40, 30, "L")
    deep = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 54)
    frames = [noise(40, 30, seed=seed) for seed in range(3)]
    palette = picture.quantize(16)
    palette.save(folder / "palette.png", transparency=bytes(range(16)))
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    exif[0x0112] = 6
    picture.save(folder / "exif.jpg", exif=exif)
    for name, image, options in (
        ("cmyk.jpg", picture.convert("CMYK"), {}),
        ("cmyk.tif", picture.convert("CMYK"), {}),
        ("lab.tif", Image.new("LAB", (40, 30)), {}),
        ("deep.png", deep, {}),
        ("deep.tif", deep, {}),
        ("float.tif", Image.fromarray(np.ones((30, 40), dtype=np.float32)), {}),
        ("integers.tif", Image.fromarray(np.full((30, 40), 1 << 20, dtype=np.int32)), {}),
        ("bits.png", picture.convert("1"), {}),
        ("alpha.png", picture.convert("RGBA"), {}),
        ("grey-alpha.png", grey.convert("LA"), {}),
        ("alpha.webp", picture.convert("RGBA"), {}),
        ("animated.gif", frames[0], {"save_all": True, "append_images": frames[1:]}),
        ("animated.png", frames[0], {"save_all": True, "append_images": frames[1:]}),
        ("animated.webp", frames[0], {"save_all": True, "append_images": frames[1:]}),
        ("pages.tif", frames[0], {"save_all": True, "append_images": frames[1:]}),
        ("two-lenses.mpo", frames[0], {"save_all": True, "append_images": frames[1:]}),
        ("progressive.jpg", picture, {"progressive": True}),
        ("photo.jp2", picture, {}),
        ("one.png", Image.new("RGB", (1, 1)), {}),
        ("narrow.png", Image.new("L", (1, 60_000)), {}),
        ("flat.png", Image.new("L", (60_000, 1)), {}),
    ):
        image.save(folder / name, **options)
    whole = (folder / "exif.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[:-200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "header.png").write_bytes((folder / "deep.png").read_bytes()[:30])
    (folder / "page.jpg").write_bytes(b"<html>not found</html>")
    (folder / "hole.jpg").write_bytes(whole[:-400] + bytes(200) + whole[-200:])
    (folder / "bomb.ppm").write_bytes(b"P6 60000 60000 255\n")
    (folder / "zero.ppm").write_bytes(b"P6 0 0 255\n")
    if features.check("avif"):
        picture.save(folder / "photo.avif")
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_a_check_and_an_evaluation_agree(tmp_path: Path) -> None:
    """What the one passes the other can use, image by image; nothing raises anything else than one line."""
    names = zoo(tmp_path / "val" / "a")
    source = open_source(str(tmp_path), "val")
    assert len(source) == len(names)
    report = check_source(str(tmp_path), "val")
    refused = {found.name.rpartition("/")[2]: found.reason for found in report.unreadable}
    stopped = {}
    transform = TrainTransform(Augment(crop="resized"), IMAGENET)
    for index in range(len(source)):
        name = source.name(index).rpartition("/")[2]
        loader = make_eval_loader(PartOfSource(source, [index]), source.readable_preprocess, batch_size=1)
        try:
            (batch,) = loader
        except InputError as error:
            stopped[name] = str(error)
        else:
            assert batch.images.shape == (1, 3, 224, 224)
            assert transform(source.image(index)).shape == (3, 224, 224)  # a training uses it too
    assert set(refused) == set(stopped)
    bad = {"bomb.ppm", "cut.jpg", "empty.jpg", "float.tif", "header.png", "integers.tif", "page.jpg", "zero.ppm"}
    assert set(refused) - {"lab.tif"} == bad | {"narrow.png", "flat.png"}  # Pillow converts CIELAB where it can
    for reason in refused.values():
        assert "\n" not in reason
        assert "val/a/" in reason


def test_left_out_files_are_listed(image_tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_tree(*PATHS, "train/cat/a.heic", "train/dog/b.txt", "train/cat/@eaDir/0.png", "val/cat/.hidden")
    report = check_source(str(root))
    assert report.clean, "no problem: they may be meant to be there"
    expected = ["train/cat/@eaDir/", "train/cat/a.heic", "train/dog/b.txt"]
    assert report.left_out == {"train": expected, "val": []}
    assert report.to_dict()["left_out"]["train"] == expected
    lines = list(report.lines())
    start = next(number for number, line in enumerate(lines) if line.startswith("files left out"))
    assert lines[start + 1 : start + 4] == [f"  {name}" for name in expected]
    assert lines[start].endswith(": 3")
    assert not any(line.startswith("files left out") for line in check_source("digits", "val").lines())
    assert "left out" not in capsys.readouterr().err, "the report says it"
