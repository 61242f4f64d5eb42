"""Tables of images and labels: what spreadsheets write is read, and one clear line for each that cannot be used."""

from __future__ import annotations

import codecs
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compactnets.data import ImageSource, open_source
from compactnets.data.base import MissingSplitError
from compactnets.data.dividing import divide_folder, open_parts
from compactnets.data.table import TableSource
from compactnets.errors import InputError

Tree = Callable[..., Path]
IMAGES = ("a/1.png", "a/2.png", "b/3.png", "b/4.png", "c, d/5.png")
ROWS = ("b/4.png,owl", "a/1.png,cat", '"c, d/5.png",owl', "a/2.png,cat", "b/3.png,owl")
SPLITS = ("val", "train", "train", "val", "train")


@pytest.fixture
def write(image_tree: Tree) -> Callable[..., Path]:
    """Write the images and a table of them."""

    def write(text: str | bytes, name: str = "labels.csv") -> Path:
        path = image_tree(*IMAGES, root="photos") / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def plain(*, split: bool = False) -> str:
    rows = [f"{row},{name}" if split else row for row, name in zip(ROWS, SPLITS, strict=True)]
    return "\n".join(["image,label,split" if split else "image,label", *rows]) + "\n"


def pairs(source: ImageSource) -> list[tuple[str, str]]:
    return [(source.name(index), source.class_names[source.labels[index]]) for index in range(len(source))]


WHOLE = [("a/1.png", "cat"), ("a/2.png", "cat"), ("b/3.png", "owl"), ("b/4.png", "owl"), ("c, d/5.png", "owl")]


@pytest.mark.parametrize(
    "text",
    [
        plain(),
        plain().replace("\n", "\r\n"),
        plain().replace("\n", "\r"),
        "\n".join([plain().splitlines()[0], *reversed(plain().splitlines()[1:])]),
        codecs.BOM_UTF8 + plain().encode(),
        plain().encode("utf-16"),
        codecs.BOM_UTF16_BE + plain().encode("utf-16-be"),
        "Class Name;notes;File-Path\nowl;x;b/4.png\ncat;;a/1.png\nowl;;c, d/5.png\ncat;;a/2.png\nowl;;b\\3.png\n;;\n",
        'sep=;\n"label";"image"\nowl;"b/4.png"\ncat;a/1.png\nowl;"c, d/5.png"\n\n"cat";./a/2.png\nowl; a/../b/3.png \n',
        "path\ttarget\nb/4.png\towl\na/1.png\tcat\nc, d/5.png\towl\na/2.png\tcat\nb/3.png\towl",
    ],
)
def test_what_spreadsheets_write(write: Callable[..., Path], text: str | bytes) -> None:
    path = write(text)
    source = open_source(str(path), "val")
    assert isinstance(source, TableSource)
    assert pairs(source) == WHOLE
    assert source.class_names == ("cat", "owl")
    assert source.image(4).size == (8, 8)
    assert source.encoded(0) == (path.parent / "a" / "1.png").read_bytes()
    with pytest.raises(MissingSplitError, match=r"no train split: .*column split, found none; divide .*--split 0\.8"):
        open_source(str(path), "train")


def test_a_column_of_splits(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = write(plain(split=True))
    train, val = (open_source(str(path), split) for split in ("train", "val"))
    assert pairs(train) == [WHOLE[0], WHOLE[2], WHOLE[4]]
    assert pairs(val) == [WHOLE[1], WHOLE[3]]
    path.write_text(plain(split=True).replace(",val\n", ",Validation\n", 1).replace(",val\n", ",TEST\n"))
    capsys.readouterr()
    assert pairs(open_source(str(path), "val")) == [WHOLE[3]]
    assert capsys.readouterr().err.splitlines() == [
        f"note: {path} (val): files left out: 1 (.png 1), the first is a/2.png",
        f"note: {path} (val): no image of 1 of the 2 classes: cat",
    ]
    path.write_text(plain(split=True).replace(",val", ",train"))
    with pytest.raises(MissingSplitError, match="no val split: expected val in a column split, found train"):
        open_source(str(path), "val")


def test_what_identifies_it(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(plain())
    one = open_source(str(path), "val")
    copy = shutil.copytree(path.parent, tmp_path / "copy") / "labels.csv"
    copy.write_text("\n".join([plain().splitlines()[0], *reversed(plain().splitlines()[1:])]))
    other = open_source(str(copy), "val")
    assert (other.fingerprint(), other.content()) == (one.fingerprint(), one.content())
    absolute = [plain().splitlines()[0], *(f'"{path.parent}/{name}",{label}' for name, label in WHOLE)]
    copy.write_text("\n".join(absolute))
    far = open_source(str(copy), "val")
    assert far.name(0) == f"{path.parent}/a/1.png"
    assert far.fingerprint() == one.fingerprint()
    copy.write_text(plain().replace("a/1.png,cat", "a/1.png,owl"))
    assert open_source(str(copy), "val").fingerprint() != one.fingerprint()


def test_repeated_lines_and_near_names(write: Callable[..., Path]) -> None:
    path = write(plain() + "a/../a/1.png,cat\n")
    with pytest.warns(UserWarning, match="lines that repeat another are read once: 1"):
        assert pairs(open_source(str(path), "val")) == WHOLE
    path.write_text(plain().replace("a/2.png,cat", "a/2.png,Cat"))
    with pytest.warns(UserWarning, match="'Cat' and 'cat' are two classes"):
        assert open_source(str(path), "val").class_names == ("Cat", "cat", "owl")


def test_labels_that_look_like_several(write: Callable[..., Path]) -> None:
    path = write(plain().replace("a/2.png,cat", "a/2.png,cat|owl"))
    with pytest.warns(UserWarning, match=r"'cat\|owl' is one class.*multilabel"):
        assert open_source(str(path), "val").class_names == ("cat", "cat|owl", "owl")


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", ("line 1", "expected the names of the columns", "found nothing")),
        ("a/1.png,cat\nb/3.png,owl\n", ("line 1", "found the line of an image, 'a/1.png'")),
        ("image,species\na/1.png,cat\n", ("line 1", "label (class, ", "found 'image, species'")),
        ("image,label\n", ("names no image",)),
        ("image,label\n,cat\n", ("line 2: no image",)),
        ("image,label\n\na/1.png,\n", ("line 3: a/1.png has no label",)),
        ("image,label\na/1.png\n", ("line 2: a/1.png has no label",)),
        ("image,label\na/1.png,cat,3\n", ("line 2: 3 cells, the header has 2",)),
        (
            "image,label\na/1.png,cat\na/7.png,cat\na/8.png,owl\n",
            ("line 3: no image at", "a/7.png", "those of 1 other"),
        ),
        ("image,label\n/no/7.png,cat\n", ("line 2: no image at /no/7.png",)),
        ("image,label\na/1.png,cat\na/1.png,owl\n", ("line 3: the label of a/1.png is 'owl', and 'cat' in line 2",)),
        ('image,label\na/1.png,cat\n\'a"b\n"a/2.png",o"wl\n"a/2.png,cat\n', ("line 5: unexpected end of data",)),
        ('image,label\na/1.png,cat\n"a/2.png"x,cat\n', ("line 3: ',' expected after '\"'",)),
        ('image,label\n"a\n1.png",cat\n', ("line 2: no image at", "a\\n1.png")),
        (b"image,label\na/1.png,caf\xe9\n", ("line 2 is not UTF-8", "CSV UTF-8")),
        (
            "image,label,split\na/1.png,cat,train\na/2.png,cat,\n",
            ("line 3: the split is ''", "expected train or one of"),
        ),
        ("image,label,split\na/1.png,cat,train\na/2.png,cat,7\n", ("line 3: the split is '7'",)),
        (
            "image,label,split\na/1.png,cat,train\na/1.png,cat,val\n",
            ("line 3: the split of a/1.png is 'val', and 'train' in line 2",),
        ),
        (
            "image,label,split\na/1.png,cat,train\na/2.png,cat,val\nb/3.png,owl,val\n",
            ("line 4: the class 'owl' has no image to train on",),
        ),
    ],
)
def test_one_clear_line(write: Callable[..., Path], text: str | bytes, facts: tuple[str, ...]) -> None:
    path = write(text)
    for split in ("train", "val") if b"split" in path.read_bytes() else ("val",):
        with pytest.raises(InputError) as error:
            open_source(str(path), split)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        assert all(fact in str(error.value) for fact in facts), error.value


def test_a_table_that_is_not_there(write: Callable[..., Path]) -> None:
    path = write(plain())
    with pytest.raises(InputError, match=r"no table at .*lables\.csv; did you mean 'labels\.csv'\?"):
        open_source(str(path.with_name("lables.csv")), "val")
    other = write(plain(), "labels.txt")
    with pytest.raises(InputError, match=r"is a file: expected .*or a table \(\.csv\)"):
        open_source(str(other), "val")
    flat = path.parent / "flat"
    flat.mkdir()
    shutil.copy(path.parent / "a" / "1.png", flat)
    (flat / "labels.csv").write_text("image,label\n1.png,cat\n")
    with pytest.raises(MissingSplitError, match=r"no train split: .*; to train on them, give .*flat/labels\.csv"):
        open_source(str(flat), "train")


def test_a_share_of_a_table(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = write(plain())
    train, val = open_parts(str(path), 0.6)
    assert sorted(pairs(train) + pairs(val)) == WHOLE
    assert sorted(val.labels.tolist()) == [0, 1]
    assert "3 images to train on, 2 to evaluate on" in capsys.readouterr().err
    path.write_text("\n".join([plain().splitlines()[0], *reversed(plain().splitlines()[1:])]))
    assert pairs(open_parts(str(path), 0.6)[1]) == pairs(val)
    path.write_text(plain(split=True))
    with pytest.raises(InputError, match="already split"):
        open_parts(str(path), 0.6)
    with pytest.raises(InputError, match="expected class folders, found csv"):
        divide_folder(str(path), path.parent / "out")
