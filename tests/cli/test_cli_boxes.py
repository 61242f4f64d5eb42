"""Images with boxes that are not divided, or lie in several folders: the same options for every verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ..detection.data.helpers import annotation, voc_object
from ..detection.helpers import SIDE, draw_scene
from .helpers import RECIPE, Outcome

Run = Callable[..., Outcome]


def write_flat(root: Path, count: int, first: int = 0) -> Path:
    root.mkdir(parents=True)
    for number in range(first, first + count):
        image, boxes = draw_scene(number)
        image.save(root / f"{number}.png")
        objects = "".join(voc_object(*box) for box in boxes)
        (root / f"{number}.xml").write_text(annotation(objects, f"{number}.png", (SIDE, SIDE)))
    return root


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flat(tmp_path_factory.mktemp("boxes") / "flat", 5)


def test_without_a_share(flat: Path, run: Run, tmp_path: Path) -> None:
    done = run("train", "small/ssd512", "--data", flat, "--output", tmp_path / "run")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "--split 0.8" in done.err
    assert run("data", "check", flat, "--json").json["splits"]["all"]["images"] == 5


@pytest.mark.slow
def test_a_share_in_training_and_evaluation(flat: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE)
    arguments = ("--data", flat, "--split", "0.6", "--output", tmp_path / "run", "--json")
    done = run("train", tmp_path / "mine.yaml", *arguments)
    assert done.code == 0, done.err
    assert "3 images with 6 objects of 2 classes: blue 3, red 3" in done.err
    assert done.json["final"]["images"] == 2
    record = json.loads((tmp_path / "run" / "best.json").read_text())
    assert record["training"]["recipe"]["split"] == 0.6
    checkpoint = tmp_path / "run" / "best.safetensors"
    done = run("eval", "--checkpoint", checkpoint, "--data", flat, "--split", "0.6", "--json")
    assert done.json["images"] == 2


def test_a_share_for_the_other_verbs(flat: Path, run: Run, tmp_path: Path) -> None:
    splits = run("data", "check", flat, "--split", "0.6", "--json").json["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {"train": 3, "val": 2}
    done = run("data", "convert", flat, "--to", "coco", "--output", tmp_path / "coco", "--split", "0.6")
    assert done.code == 0, done.err
    done = run("data", "split", flat, "--output", tmp_path / "divided", "--split", "0.6")
    assert done.code == 0, done.err
    assert "train 3 images, val 2 images" in done.out
    for root in (tmp_path / "coco", tmp_path / "divided"):
        splits = run("data", "check", root, "--json").json["splits"]
        assert {name: split["images"] for name, split in splits.items()} == {"train": 3, "val": 2}
    assert run("data", "split", flat, "--output", tmp_path / "divided").code == 2
    for share in ("0", "1", "1.5"):
        assert run("data", "split", flat, "--output", tmp_path / "other", "--split", share).code == 2
        assert run("data", "check", flat, "--split", share).code == 2


def test_several_folders(flat: Path, run: Run, tmp_path: Path) -> None:
    other = write_flat(tmp_path / "more", 5, first=50)
    done = run("data", "check", flat, other, "--json")
    assert done.json["splits"]["all"]["images"] == 10
    done = run("data", "convert", flat, other, "--to", "voc", "--output", tmp_path / "out", "--split", "0.8")
    assert done.code == 0, done.err
    assert "train 8, val 2" in done.out
    done = run("data", "check", flat, tmp_path / "none")
    assert done.code == 2
    assert done.err.count("\n") == 1


def test_class_folders_are_divided(run: Run, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_flat(tmp_path / "photos" / name, 5, first=100 * len(name) * (name == "dog"))
        for file in (tmp_path / "photos" / name).glob("*.xml"):
            file.unlink()
    done = run("data", "split", tmp_path / "photos", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert "2 classes, train 8 images, val 2 images" in done.out
    assert run("data", "check", tmp_path / "out", "--json").json["splits"]["train"]["images"] == 8


def test_data_of_another_task_are_named(flat: Path, run: Run, tmp_path: Path) -> None:
    done = run("train", "cifar/short", "--data", flat, "--output", tmp_path / "run")
    assert done.code == 2
    assert "images with boxes, for detection" in done.err
    assert done.err.count("\n") == 1
    done = run("train", "small/ssd512", "--data", tmp_path, "--output", tmp_path / "run")
    assert done.code == 2
    assert done.err.count("\n") == 1


def test_a_training_split_without_objects_is_a_problem(run: Run, tmp_path: Path) -> None:
    for split, objects in (("train", ""), ("val", voc_object("red", 1, 1, 9, 9))):
        write_flat(tmp_path / "set" / split, 2)
        for file in (tmp_path / "set" / split).glob("*.xml"):
            file.write_text(annotation(objects, f"{file.stem}.png", (SIDE, SIDE)))
    done = run("data", "check", tmp_path / "set")
    assert done.code == 1
    assert "nothing to train on: 1" in done.out


@pytest.mark.slow
def test_eval_leaves_out_on_request(flat: Path, run: Run, tmp_path: Path) -> None:
    """Images and annotations that cannot be read, counted; else the first is the one line."""
    (tmp_path / "mine.yaml").write_text(RECIPE)
    data = tmp_path / "set"
    write_flat(data / "train", 4)
    write_flat(data / "val", 4, first=10)
    arguments = ("train", tmp_path / "mine.yaml", "--data", data, "--output", tmp_path / "run")
    done = run(*arguments)
    assert done.code == 0, done.err
    image, file = data / "val" / "10.png", data / "val" / "11.xml"
    image.write_bytes(image.read_bytes()[:-200])
    file.write_text("nothing")
    arguments = ("eval", "--checkpoint", tmp_path / "run" / "best.safetensors", "--data", data)
    for options, named in (((), file), (("--bad-boxes", "drop"), image)):
        done = run(*arguments, *options)
        assert done.code == 2
        assert str(named) in done.err
    done = run(*arguments, "--bad-boxes", "drop", "--on-error", "skip", "--json")
    assert done.json["images"] == 2
    assert done.err.count("1 of ") == 2


@pytest.mark.slow
def test_a_detector_of_chosen_classes(flat: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE + "classes: [red]\n")
    arguments = ("--data", flat, "--split", "0.6")
    done = run("train", tmp_path / "mine.yaml", *arguments, "--output", tmp_path / "run")
    assert done.code == 0, done.err
    assert "3 objects of other classes left out: blue" in done.err
    done = run("eval", "--checkpoint", tmp_path / "run" / "best.safetensors", *arguments, "--json")
    assert [(row["name"], row["objects"]) for row in done.json["classes"]] == [("red", 2)]
    assert "2 objects of other classes left out: blue" in done.err
