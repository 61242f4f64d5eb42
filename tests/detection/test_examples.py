"""The page with the best and the worst images."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from compactnets.detection.examples import Example, examples_page
from compactnets.detection.objects import no_objects
from compactnets.errors import InputError
from tests.detection.scenes import detections, evaluate, objects

A, B = [10, 10, 40, 40], [60, 10, 90, 40]
NAMES = ("<b>cat</b>", "dog & co")


def example(name: str, right: int, wrong: int, opened: list[str], size: tuple[int, int] = (100, 80)) -> Example:
    def load() -> Image.Image:
        opened.append(name)
        return Image.new("L", size)

    found = detections([A, B][:right] + [[0, 60, 5, 70]] * wrong, [0.9] * (right + wrong))
    return Example(name, load, found, objects([A, B]))


def sections(page: str) -> dict[str, list[str]]:
    """The captions' names under each heading."""
    parts = re.split(r"<h2>(\w+)</h2>", page)[1:]
    return {
        heading: re.findall(r'class="name">([^<]*)<', text)
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }


def pictures(page: str) -> list[Image.Image]:
    encoded = re.findall(r'data:image/jpeg;base64,([^"]+)', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in encoded]


def test_best_and_worst(tmp_path: Path) -> None:
    opened: list[str] = []
    examples = [
        example("one of two", 1, 0, opened),
        example("perfect", 2, 0, opened),
        example("nothing", 0, 0, opened),
        example("all wrong", 0, 3, opened),
        example("half", 1, 1, opened),
        Example("empty", lambda: Image.new("RGB", (10, 10)), detections([], []), no_objects()),
    ]
    path = tmp_path / "new" / "page.html"
    examples_page(path, examples, NAMES, count=2)
    assert sections(path.read_text(encoding="utf-8")) == {
        "Worst": ["all wrong", "nothing"],
        "Best": ["perfect", "empty"],
    }
    assert sorted(opened) == ["all wrong", "nothing", "perfect"], "only what is shown is read"
    text = " ".join(path.read_text(encoding="utf-8").split())
    assert "0 right, 3 wrong, 2 missed · F1 0.00" in text
    assert "2 right, 0 wrong, 0 missed · F1 1.00" in text


def test_no_image_is_shown_twice(tmp_path: Path) -> None:
    examples = [example(str(right), right, 0, []) for right in range(3)]
    examples_page(tmp_path / "page.html", examples, NAMES)
    assert sections((tmp_path / "page.html").read_text(encoding="utf-8")) == {"Worst": ["0"], "Best": ["2", "1"]}
    examples_page(tmp_path / "page.html", [], NAMES)
    assert "<figure>" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_file_stands_alone_and_escapes_names(tmp_path: Path) -> None:
    examples = [
        example("<script>alert(1)</script>", 1, 0, [], size=(3000, 1000)),
        example("small", 2, 0, [], size=(100, 80)),
    ]
    images = [(one.detections, one.objects) for one in examples]
    path = tmp_path / "page.html"
    examples_page(path, examples, NAMES, scores=evaluate(images, NAMES), title="A & B")
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;cat&lt;/b&gt;" in page
    assert "<title>A &amp; B</title>" in page
    assert "VOC 2007 mAP (11 points), 2 images" in page
    linked = re.findall(r'(?:src|href)="([^"]{0,30})|url\(', page)
    assert linked
    assert all(target.startswith("data:") for target in linked)
    assert [picture.size for picture in pictures(page)] == [(640, 213)] * 2 + [(480, 384)] * 2


def test_boxes_lie_where_they_are_in_the_enlarged_image(tmp_path: Path) -> None:
    """And right ones are solid, wrong ones and missed objects dashed: dark in part."""
    right, wrong, missed = [10, 60, 50, 120], [80, 60, 120, 120], [150, 60, 190, 120]
    shown = Example(
        "x", lambda: Image.new("L", (200, 160), 128), detections([right, wrong], [0.9, 0.8]), objects([right, missed])
    )
    examples_page(tmp_path / "page.html", [shown], NAMES)
    annotated, detected = pictures((tmp_path / "page.html").read_text(encoding="utf-8"))

    def lower_edge(picture: Image.Image, box: list[int]) -> tuple[float, float]:
        """Shares of pixels that are as dark as a gap, and as light as the background, along a line inside the edge."""
        left, _, right, bottom = (round(2.4 * side) for side in box)
        grey = [picture.convert("L").getpixel((x, bottom - 2)) for x in range(left + 3, right - 3)]
        return sum(value < 60 for value in grey) / len(grey), sum(118 < value < 138 for value in grey) / len(grey)

    for picture, box, dashed in (
        (annotated, right, False),
        (annotated, missed, False),
        (detected, right, False),
        (detected, wrong, True),
        (detected, missed, True),
    ):
        dark, background = lower_edge(picture, box)
        assert background < 0.2
        assert 0.2 < dark < 0.6 if dashed else dark == 0
    assert lower_edge(annotated, wrong)[1] == 1


def test_score_threshold(tmp_path: Path) -> None:
    found = detections([A, B], [0.9, 0.3])
    shown = Example("x", lambda: Image.new("RGB", (100, 80)), found, objects([A, B]))
    examples_page(tmp_path / "page.html", [shown], NAMES)
    assert "1 right, 0 wrong, 1 missed" in (tmp_path / "page.html").read_text(encoding="utf-8")
    examples_page(tmp_path / "page.html", [shown], NAMES, score_threshold=0.3)
    assert "2 right, 0 wrong, 0 missed" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_metrics_without_a_value(tmp_path: Path) -> None:
    scores = evaluate([(detections([], []), no_objects())], NAMES, metric="coco")
    examples_page(tmp_path / "page.html", [], NAMES, scores=scores)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "no objects" in page
    assert "<td>–</td>" in page


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write .*page.html"):
        examples_page(tmp_path / "file" / "page.html", [], NAMES)
