"""What ``predict`` and ``detect predict`` take and write: folders, patterns, videos; CSV, COCO's results, drawings."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from compactnets.detection import prediction
from compactnets.detection.objects import Detections
from compactnets.detection.task import TASK

from ..data.helpers import noise, write_video
from .helpers import Outcome, stand_in

Run = Callable[..., Outcome]
WEIGHTS = ("--weights", "muffnet_x0_5.cifar10")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    noise(40, 30).save(folder / "000000000139.jpg")
    noise(40, 30, seed=1).save(folder / "deep/b.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_predict_takes_folders_and_patterns_and_names_what_it_cannot_read(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "new/found.csv"
    table.parent.mkdir()
    done = run("predict", *WEIGHTS, photos, photos / "deep/*", "--top", 2, "--csv", table)
    assert done.code == 2
    assert done.err.count("compactnets: error:") == 1
    assert "broken.png" in done.err
    assert done.out.count("b.png") == 2
    found = rows(table)
    assert [row["rank"] for row in found] == ["1", "2", "", "1", "2", "1", "2"]
    assert [Path(row["image"]).name for row in found if row["error"]] == ["broken.png"]
    shares = [float(row["probability"]) for row in found if row["rank"]]
    assert all(0 <= share <= 1 for share in shares)
    as_json = run("predict", *WEIGHTS, photos, "--top", 2, "--json").json
    assert ["guesses" in one and "error" in one for one in as_json].count(True) == 1
    assert all("frame" not in one for one in as_json)


def test_predict_takes_frames_of_videos(run: Run, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", 7)
    found = run("predict", *WEIGHTS, tmp_path / "clip.mp4", "--every", 3, "--json").json
    assert [one["frame"] for one in found] == [0, 3, 6]
    assert [one["seconds"] for one in found] == [0.0, 0.3, 0.6]
    shown = run("predict", *WEIGHTS, tmp_path / "clip.mp4", "--every", 100)
    assert "clip.mp4 (frame 0" in shown.out
    assert shown.code == 0


@pytest.mark.parametrize("named", ["*.gif", "nowhere", "-"])
def test_nothing_found_is_one_line(run: Run, tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("predict", *WEIGHTS, named)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert named in done.err


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds one object in the left half of every image, of a class that no Latin font has."""
    from types import SimpleNamespace

    record = SimpleNamespace(class_names=("dog", "猫"), detector="ssd", model="a", faster_rcnn=None, ssd=None)
    module = torch.nn.Identity()
    stand_in(monkeypatch, TASK, module, record)

    def find(_: Any, images: list[torch.Tensor]) -> list[Detections]:
        (image,) = images
        if image.shape[-1] == 13:
            raise RuntimeError("an operator that fails")
        box = torch.tensor([[0.0, 0.0, image.shape[-1] / 2, image.shape[-2]]])
        return [Detections(box, torch.tensor([1]), torch.tensor([0.75]))]

    monkeypatch.setattr(prediction, "find_objects", find)


@pytest.mark.usefixtures("detector")
def test_detect_predict_writes_every_kind_of_result(run: Run, photos: Path, tmp_path: Path) -> None:
    noise(13, 30).save(photos / "unlucky.png")
    out = {name: tmp_path / name for name in ("found.csv", "found.json", "drawn")}
    arguments = ("--csv", out["found.csv"], "--coco", out["found.json"], "--output", out["drawn"])
    done = run("predict", "--checkpoint", "a", photos, *arguments)
    assert done.code == 2
    errors = [line for line in done.err.splitlines() if "error:" in line]
    assert ["broken.png" in errors[0], "unlucky.png" in errors[1], len(errors)] == [True, True, 2]
    assert "#2" in done.err or "猫" in done.out  # a legend where the machine has no font for it
    assert sorted(path.name for path in out["drawn"].iterdir()) == ["000000000139.jpg", "b.jpg"]
    assert Image.open(out["drawn"] / "b.jpg").size == (40, 30)
    found = json.loads(out["found.json"].read_text(encoding="utf-8"))
    box = [0, 0, 20, 30]
    assert found == [
        {"image_id": 139, "category_id": 2, "bbox": box, "score": 0.75},
        {"image_id": "b.png", "category_id": 2, "bbox": box, "score": 0.75},
    ]
    table = rows(out["found.csv"])
    assert [(Path(row["image"]).name, row["class_name"], row["right"], bool(row["error"])) for row in table] == [
        ("000000000139.jpg", "猫", "20.0", False),
        ("broken.png", "", "", True),
        ("unlucky.png", "", "", True),
        ("b.png", "猫", "20.0", False),
    ]


@pytest.mark.usefixtures("detector")
def test_coco_s_ids_are_those_of_the_annotations(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").unlink()
    document = {
        "images": [{"id": 7, "file_name": "000000000139.jpg"}, {"id": 8, "file_name": "deep/b.png"}],
        "categories": [{"id": 40, "name": "猫"}, {"id": 50, "name": "dog"}],
    }
    ids = tmp_path / "instances.json"
    ids.write_text(json.dumps(document), encoding="utf-8")
    arguments = ("--coco", tmp_path / "found.json", "--annotations", ids)
    done = run("predict", "--checkpoint", "a", photos, *arguments)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [(one["image_id"], one["category_id"]) for one in found] == [(7, 40), (8, 40)]
    noise(20, 20).save(photos / "more.png")
    (tmp_path / "found.json").unlink()
    done = run("predict", "--checkpoint", "a", photos, *arguments)
    assert done.code == 2
    assert "more.png" in done.err
    assert not (tmp_path / "found.json").exists()
    for text in ("{", "[]", json.dumps({**document, "categories": []})):
        ids.write_text(text)
        done = run("predict", "--checkpoint", "a", photos, *arguments)
        assert (done.code, len(done.err.strip().splitlines())) == (2, 1)
        assert str(ids) in done.err


@pytest.mark.usefixtures("detector")
def test_two_images_of_one_id_are_refused(run: Run, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "deep/b.png", photos / "b.png")
    done = run("predict", "--checkpoint", "a", photos, "--coco", tmp_path / "found.json")
    assert done.code == 2
    assert "b.png" in done.err
    assert not (tmp_path / "found.json").exists()


@pytest.mark.usefixtures("detector")
def test_drawings_take_the_place_of_no_photograph(run: Run, photos: Path) -> None:
    before = (photos / "000000000139.jpg").read_bytes()
    (photos / "broken.png").unlink()
    done = run("predict", "--checkpoint", "a", photos / "*.jpg", "--output", photos, "--json")
    assert done.code == 0, done.err
    assert (photos / "000000000139.jpg").read_bytes() == before
    assert Path(done.json[0]["drawn"]).name == "000000000139-2.jpg"


@pytest.mark.usefixtures("detector")
def test_frames_are_drawn_under_their_numbers(run: Run, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", 7)
    arguments = ("--every", 5, "--output", tmp_path / "drawn", "--coco", tmp_path / "found.json")
    done = run("predict", "--checkpoint", "a", tmp_path / "clip.mp4", *arguments, "--json")
    assert done.code == 0, done.err
    assert [one["frame"] for one in done.json] == [0, 5]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["clip-000000.jpg", "clip-000005.jpg"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["image_id"] for one in found] == ["clip.mp4#0", "clip.mp4#5"]


def test_outputs_are_checked_before_the_work(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, TASK, torch.nn.Identity(), None)
    monkeypatch.setattr("compactnets.api.open_model", lambda *_, **__: pytest.fail("work was done"))
    (tmp_path / "file").write_text("mine")
    for option in ("--csv", "--coco", "--output"):
        done = run("predict", "--checkpoint", "none", "a.jpg", option, tmp_path / "file/x")
        assert done.code == 2
        assert option in done.err
    done = run("predict", "--checkpoint", "none", "a.jpg", "--csv", tmp_path)
    assert done.code == 2
    assert "--csv" in done.err
    done = run("predict", "--checkpoint", "none", "a.jpg", "--annotations", tmp_path / "x.json")
    assert "--coco" in done.err


def test_images_that_scale_to_nothing_are_bad_files(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster R-CNN scales to a longer side, so that a strip has no height left."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    from compactnets.detection.evaluation import find_objects

    class Scaling(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transform = GeneralizedRCNNTransform(60, 100, [0.5] * 3, [0.5] * 3)

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            self.transform(images)
            empty = torch.zeros(0)
            return [{"boxes": torch.zeros(0, 4), "labels": empty.long(), "scores": empty}]

    from types import SimpleNamespace

    record = SimpleNamespace(class_names=("dog",), detector="faster_rcnn", model="a", faster_rcnn=None, ssd=None)
    stand_in(monkeypatch, TASK, Scaling().eval(), record)
    Image.new("RGB", (3000, 2)).save(tmp_path / "a-strip.png")
    Image.new("RGB", (2, 3000)).save(tmp_path / "b-strip.png")
    noise(30, 20).save(tmp_path / "c.png")
    done = run("predict", "--checkpoint", "a", tmp_path / "*.png")
    assert done.code == 2
    assert "c.png" in done.out
    assert [name in done.err for name in ("a-strip.png", "b-strip.png", "3000 x 2 ", "2 x 3000 ")] == [True] * 4
    assert done.err.count("error:") == 2
    find_objects(Scaling().eval(), [torch.zeros(3, 2, 190)])  # 1.05 pixels
