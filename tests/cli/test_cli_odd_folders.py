"""Folders in which something is broken that is not asked for, and paths that only look like a home folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compactnets.detection.data.conversion import _check_images
from compactnets.detection.data.opening import is_detection, open_detection
from compactnets.errors import InputError
from compactnets.files import as_path

from ..deploy.helpers import write_pictures
from ..detection.data.helpers import write_tree
from .helpers import Outcome

Run = Callable[..., Outcome]


@pytest.mark.parametrize("content", ["<broken", "", "\0\1", "<a><b></a>", "<!DOCTYPE a [<!ENTITY b 'c'>"])
@pytest.mark.parametrize("place", ["notes.xml", "n0/notes.xml"])
def test_xml_that_is_none_among_images(content: str, place: str, run: Run, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "photos")
    (folder / place).write_text(content)
    is_detection(str(folder))
    done = run("data", "check", folder)
    assert done.code in (0, 1, 2), done.err
    assert len(done.err.splitlines()) <= 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "check", "~nobody-has-this/photos"],
        ["train", "cifar/muffnet", "--data", "~nobody-has-this/photos", "--output", "{tmp}"],
        ["train", "~nobody-has-this/a.yaml", "--data", "digits", "--output", "{tmp}"],
        ["eval", "--checkpoint", "~nobody-has-this/a.safetensors", "--data", "cells"],
        ["eval", "--checkpoint", "~nobody-has-this/a.safetensors", "--data", "digits"],
    ],
    ids=" ".join,
)
def test_the_home_of_nobody(arguments: list[str], run: Run, tmp_path: Path) -> None:
    done = run(*(each.format(tmp=tmp_path / "out") for each in arguments))
    assert done.code == 2
    assert "~nobody-has-this" in done.err
    assert len(done.err.splitlines()) == 1
    assert as_path("~nobody-has-this/a") == Path("~nobody-has-this/a")


def test_a_data_yaml_of_another_machine(tmp_path: Path) -> None:
    """Its ``path`` names the home of somebody who is not known here."""
    folder = write_pictures(tmp_path / "set" / "images")
    labels = tmp_path / "set" / "labels" / "n0"
    labels.mkdir(parents=True)
    (labels / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    text = "path: ~nobody-has-this/set\nval: images/n0\nnames: [a]\n"
    (tmp_path / "set" / "data.yaml").write_text(text)
    source = open_detection(str(folder.parent), "val")
    assert len(source) == 8
    assert source.size(0) == (30, 30)


@pytest.fixture
def half_broken(tmp_path: Path) -> Path:
    """A tree whose val can be used, and whose list of train is no text."""
    tree = write_tree(tmp_path / "voc", {"val": {"1": [("cat", 2, 3, 20, 16)]}})
    (tree / "ImageSets" / "Main" / "train.txt").write_bytes(b"\xff\xfe\xff")
    return tree


def test_another_split_does_not_cost_the_report(half_broken: Path, run: Run) -> None:
    done = run("data", "check", half_broken, "--split", "val")
    assert done.code == 0, done.err
    assert "cat 1" in done.out
    assert "train.txt" in done.err
    asked = run("data", "check", half_broken, "--split", "val", "--recipe", "small/ssd512")
    assert asked.code == 2
    assert "train.txt" in asked.err


def test_an_option_for_boxes_is_refused_for_labels(run: Run, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "photos")
    done = run("data", "split", folder, "--output", tmp_path / "out", "--bad-boxes", "drop")
    assert done.code == 2
    assert "--bad-boxes" in done.err
    assert not (tmp_path / "out").exists()


def test_an_image_that_a_list_of_many_has_twice(half_broken: Path) -> None:
    """In time that grows with the list, and not with its square."""
    source = open_detection(str(half_broken), "val").pick([0] * 30_000)
    source.names = [f"{index}.png" for index in range(29_999)] + ["29998.png"]
    with pytest.raises(InputError, match=r"29998\.png .*twice"):
        _check_images([source])
