"""What is an image and what is passed over, and the names of classes: told or handled when a source is opened."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, features

from compactnets.data import open_source
from compactnets.data.base import Split
from compactnets.data.images import FORMATS
from compactnets.data.listing import ENDINGS, check_names, list_images, summarize
from compactnets.errors import InputError

from .helpers import encode, noise, write_shard

Tree = Callable[..., Path]
PATHS = [f"{split}/{name}/{number}.png" for split in ("train", "val") for name in ("dog", "cat") for number in range(2)]
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
REFUSED = {".pfm"}  # floating-point pixels
ANOTHER_READER = {".mpo"}  # Pillow's reader of JPEG opens it


def test_endings_are_those_of_what_the_decoder_reads() -> None:
    Image.init()
    known = {ending for ending, name in Image.EXTENSION.items() if name in FORMATS}
    assert set(ENDINGS) - ANOTHER_READER == known - REFUSED


@pytest.mark.parametrize(
    ("ending", "image_format"),
    [
        (".jfif", "JPEG"),
        (".JPE", "JPEG"),
        (".gif", "GIF"),
        (".jp2", "JPEG2000"),
        (".j2k", "JPEG2000"),
        (".apng", "PNG"),
        (".pnm", "PPM"),
        pytest.param(".avif", "AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without")),
    ],
)
def test_every_source_reads_what_the_decoder_reads(
    image_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, image_format: str
) -> None:
    monkeypatch.setenv("COMPACTNETS_DATA", str(tmp_path / "cache"))
    data = encode(noise(16, 12), image_format)
    root = image_tree("folder/val/a/", "flat/val/", "tar/")
    (root / "folder/val/a" / f"0{ending}").write_bytes(data)
    (root / "flat/val" / f"0{ending}").write_bytes(data)
    (root / "flat/val.txt").write_text(f"0{ending} a\n")
    with tarfile.open(root / "tar/val-0.tar", "w") as tar:
        for name, content in ((f"0{ending}", data), ("0.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    write_shard(root / "parquet/val.parquet", [0], images=[data])
    for layout in ("folder", "flat", "tar", "parquet"):
        source = open_source(str(root / layout), "val")
        assert (len(source), source.image(0).size) == (1, (16, 12)), layout
        assert source.left_out == []


def test_an_animation_gives_its_first_frame(image_tree: Tree) -> None:
    root = image_tree("val/a/")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(root / "val/a/0.gif", save_all=True, append_images=frames[1:])
    image = open_source(str(root), "val").image(0).convert("RGB")
    assert image.getpixel((3, 3)) == (255, 0, 0)


def test_what_is_not_read_is_counted_at_opening(image_tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_tree(
        *PATHS,
        *("train/cat/a.heic", "train/cat/deeper/b.heic", "train/dog/notes.txt", "train/LICENSE", "train/stray.png"),
        *("outside.png", "README.md"),  # an image beside the splits is an oversight, a text is not
    )
    source = open_source(str(root), "train")
    assert len(source) == 4
    left_out = ["outside.png", "train/LICENSE", "train/stray.png"]
    assert source.left_out == [*left_out, "train/cat/a.heic", "train/cat/deeper/b.heic", "train/dog/notes.txt"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    for fact in ("train", " 6 (", ".heic 2", ".png 2", "the first is outside.png"):
        assert fact in told[0]
    open_source(str(root), "val")
    assert "outside.png" in capsys.readouterr().err


def test_members_of_no_sample_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPACTNETS_DATA", str(tmp_path / "cache"))
    members = {"a.png": encode(noise(8, 8)), "a.cls": b"0", "a.txt": b"a caption", "b.heic": b"?", "__MACOSX/._a": b""}
    members["__MACOSX/c.png"] = members["a.png"]
    with tarfile.open(tmp_path / "val-0.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for _ in ("read", "remembered"):
        source = open_source(str(tmp_path), "val")
        assert (len(source), source.left_out) == (1, ["val-0.tar/b.heic"])


def test_parquet_files_of_no_split_are_counted(tmp_path: Path) -> None:
    write_shard(tmp_path / "Train-0.parquet", [0, 1])
    write_shard(tmp_path / "extra.parquet", [0])
    source = open_source(str(tmp_path), "train")
    assert (len(source), source.left_out) == (2, ["extra.parquet"])


SYSTEM = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")


@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_the_system_are_no_classes_and_hold_no_images(image_tree: Tree, name: str) -> None:
    inside = [f"train/{name}/0.png", f"train/cat/{name}/0.png/thumb.png", f"{name}/x/0.png"]
    source = open_source(str(image_tree(*PATHS, *inside)), "train")
    assert (source.class_names, len(source)) == (("cat", "dog"), 4)
    assert source.left_out == [f"train/{name}/", f"train/cat/{name}/"]
    nested = image_tree(f"{name}/0.png", "inner/train/a/0.png", root="nested")
    with pytest.raises(InputError, match="give .*inner instead"):
        open_source(str(nested), "train")


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".hidden/0.png"])
def test_files_of_the_system_are_no_news(image_tree: Tree, name: str) -> None:
    source = open_source(str(image_tree(*PATHS, f"train/{name}", f"train/cat/{name}")), "train")
    assert (len(source), source.left_out) == (4, [])


@pytest.mark.parametrize(
    ("train", "val"), [("Train", "Val"), ("TRAIN", "Validation"), ("Training", "Testing"), ("train", "Test")]
)
def test_splits_with_capitals(image_tree: Tree, train: str, val: str) -> None:
    root = image_tree(f"{train}/a/0.png", f"{train}/b/0.png", f"{val}/a/0.png", f"{val}/b/1.png")
    for split, folder in (("train", train), ("val", val)):
        source = open_source(str(root), split)  # type: ignore[arg-type]
        assert (source.class_names, source.name(0)) == (("a", "b"), f"{folder}/a/0.png")


def test_two_folders_of_a_split(image_tree: Tree) -> None:
    root = image_tree("Train/a/0.png", "train/a/0.png", "val/a/0.png")
    if len(list(root.iterdir())) == 3:  # a file system that tells capitals apart
        with pytest.raises(InputError, match="holds Train/ and train/"):
            open_source(str(root), "train")


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
@pytest.mark.parametrize("place", ["train/cat/again", "train/again", "train/cat/deeper/again"])
def test_a_link_to_a_folder_above_is_left_out(image_tree: Tree, place: str, target: str) -> None:
    root = image_tree(*PATHS, "train/cat/deeper/9.png")
    (root / place).symlink_to(target)
    source = open_source(str(root), "train")
    assert (source.class_names, len(source)) == (("cat", "dog"), 5)
    assert source.left_out == [f"{place}/"]


def test_links_to_elsewhere_are_followed(image_tree: Tree) -> None:
    root = image_tree("train/cat/0.png", "val/cat/0.png", "elsewhere/1.png", "elsewhere/2.png", "dogs/3.png")
    (root / "train/cat/more").symlink_to(root / "elsewhere")
    (root / "train/cat/twice").symlink_to(root / "elsewhere")
    for split in ("train", "val"):
        (root / split / "dog").symlink_to(root / "dogs")
    source = open_source(str(root), "train")
    assert [source.name(index) for index in range(4)] == [
        *("train/cat/0.png", "train/cat/more/1.png", "train/cat/more/2.png", "train/dog/3.png")
    ]
    assert source.left_out == ["train/cat/twice/"]


def test_a_pipe_is_not_waited_for(image_tree: Tree) -> None:
    root = image_tree(*PATHS)
    os.mkfifo(root / "train/cat/pipe.png")
    source = open_source(str(root), "train")
    assert (len(source), source.left_out) == (4, ["train/cat/pipe.png"])


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(image_tree: Tree) -> None:
    root = image_tree("val/a/0.png")
    (root / "val/a/1.png").symlink_to("nowhere.png")
    source = open_source(str(root), "val")
    assert len(source) == 2
    with pytest.raises(InputError, match=r"no image at .*1\.png"):
        source.image(1)


def test_a_name_that_is_not_utf8_is_told_at_opening(image_tree: Tree) -> None:
    root = image_tree(*PATHS)
    for split in ("train", "val"):
        os.rename(root / split / "cat", os.path.join(os.fsencode(root / split), b"caf\xe9"))
    with pytest.raises(InputError, match="not UTF-8") as caught:
        open_source(str(root), "train")
    assert "udce9" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("other", [COMPOSED, DECOMPOSED])
def test_accents_are_one_class_however_they_are_encoded(image_tree: Tree, other: str) -> None:
    root = image_tree(f"train/{DECOMPOSED}/0.png", "train/zoo/0.png", f"val/{other}/0.png", "val/zoo/0.png")
    train, val = open_source(str(root), "train"), open_source(str(root), "val")
    assert train.class_names == val.class_names == (COMPOSED, "zoo")
    assert train.image(0).size == (8, 8)
    (root / "flat" / "val").mkdir(parents=True)
    noise(8, 8).save(root / "flat" / "val" / f"{DECOMPOSED}.png")
    (root / "flat" / "val.txt").write_text(f"{COMPOSED}.png {other}\n", encoding="utf-8")
    assert open_source(str(root / "flat"), "val").class_names == (COMPOSED,)


def test_accents_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPACTNETS_DATA", str(tmp_path / "cache"))
    for split, name in (("train", COMPOSED), ("val", DECOMPOSED)):
        write_shard(tmp_path / "parquet" / f"{split}.parquet", [0], class_names=[name])
        (tmp_path / "tar").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "tar" / f"{split}-0.tar", "w") as tar:
            for member_name, data in (("0.png", encode(noise(8, 8))), ("0.json", json.dumps({"label": name}).encode())):
                member = tarfile.TarInfo(member_name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    for layout in ("parquet", "tar"):
        for split in ("train", "val"):
            source = open_source(str(tmp_path / layout), split)  # type: ignore[arg-type]
            assert (source.class_names, source.labels.tolist()) == ((COMPOSED,), [0])
    (tmp_path / "tar" / "classes.txt").write_text(f"zoo\n{DECOMPOSED}\n", encoding="utf-8")
    source = open_source(str(tmp_path / "tar"), "train")
    assert (source.class_names, source.labels.tolist()) == (("zoo", COMPOSED), [1])


def test_both_encodings_of_an_accent_in_one_folder(image_tree: Tree) -> None:
    root = image_tree(f"val/{COMPOSED}/0.png", f"val/{DECOMPOSED}/0.png")
    with pytest.raises(InputError, match="NFC and NFD") as caught:
        open_source(str(root), "val")
    assert "\n" not in str(caught.value)


def test_names_from_elsewhere_are_checked_too() -> None:
    with pytest.raises(InputError, match="not UTF-8"):
        check_names("shards", ["cat", "\ud800"])  # as JSON can state it


def test_endings_are_summed_up() -> None:
    assert summarize(["a.txt", "b.TXT", "c", "d/"]) == "4 (.txt 2, without ending 1, d/ 1)"
    many = [f"{number}.{number}" for number in range(9)]
    assert summarize(many).endswith("others 5)")


def test_order_is_that_of_folders_then_names(image_tree: Tree) -> None:
    root = image_tree("b/0.png", "a/1.png", "z.png", "10.png", "9.png")
    names = [os.path.relpath(path, root) for path in list_images(root).images]
    assert names == ["10.png", "9.png", "z.png", "a/1.png", "b/0.png"]


def test_names_in_a_locale_without_utf8(tmp_path: Path) -> None:
    """``LC_ALL=C``, of cron jobs and containers: names of folders and files of names are UTF-8 all the same."""
    names = ["Apfel", "E\u0301clair", "Äpfel", "日本"]  # one of them decomposed, as macOS has it
    for split in ("train", "val"):
        for name in names:
            (tmp_path / "a" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "a" / split / name / "é.png")
    (tmp_path / "recipe.yaml").write_text("model: muffnet_x0_5\nepochs: 1  # é\n", encoding="utf-8")
    script = """
import json, sys
from compactnets.data import open_source
from compactnets.data.base import Split
from compactnets.data.listing import check_names
from compactnets.errors import InputError
from compactnets.values import read_yaml
source = open_source(sys.argv[1] + "/a", "train")
read_yaml(sys.argv[1] + "/recipe.yaml", "recipe")
try:
    check_names("a", [b"caf\\xe9".decode("ascii", "surrogateescape")])
except InputError as error:
    refused = str(error)
labels = source.labels.tolist()
print(json.dumps([sys.getfilesystemencoding(), source.class_names, source.image(2).size, labels, refused]))
"""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    variables |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, encoding="utf-8", env=variables, check=False
    )
    assert done.returncode == 0, done.stderr
    encoding, classes, size, labels, refused = json.loads(done.stdout)
    assert encoding != "utf-8"
    assert classes == list(open_source(str(tmp_path / "a"), "train").class_names)
    assert "Éclair" in classes
    assert (size, labels) == ([8, 8], [0, 1, 2, 3])
    assert r"caf\xe9" in refused or "caf" in refused


@pytest.mark.parametrize(
    "names",
    [("train_images", "test_images"), ("Training-Set", "Test-Set"), ("trn", "dev"), ("my train", "my val", "my test")],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_splits_of_other_names_are_no_classes(image_tree: Tree, names: tuple[str, ...], split: Split) -> None:
    root = image_tree(*(f"{name}/{kind}/0.png" for name in names for kind in ("cat", "dog")))
    with pytest.raises(InputError) as error:
        open_source(str(root), split)
    assert names[0] in str(error.value)
    assert "train" in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_that_are_divided_alike_are_told(image_tree: Tree) -> None:
    """``A/cat``, ``A/dog``, ``B/cat``, ``B/dog``, or each class with a training and a test part."""
    for names, parts in ((("A", "B"), ("cat", "dog")), (("cat", "dog"), ("test", "train"))):
        root = image_tree(*(f"{name}/{part}/0.png" for name in names for part in parts), root="-".join(names))
        with pytest.warns(UserWarning, match=f"{names[0]}, {names[1]}") as found:
            source = open_source(str(root), "val")
        assert all(part in str(found[0].message) for part in parts)
        assert source.class_names == names


def test_classes_with_folders_of_their_own_are_classes(image_tree: Tree) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for root in (
            image_tree("test tube/a/0.png", "train wagon/b/0.png", "lamp/c/0.png", root="x"),
            image_tree("cat/2021/0.png", "dog/2021/0.png", "dog/2022/0.png", root="z"),
        ):
            assert len(open_source(str(root), "val").class_names) == len(list(root.iterdir()))
