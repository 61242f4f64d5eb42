"""Segmenters in the page: the mask of a picture, beside a classifier, and from the camera."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from compactnets.data import read_image
from compactnets.deploy.export import export_subject
from compactnets.drawing.colours import class_colour
from compactnets.environment import set_variables
from compactnets.errors import InputError
from compactnets.latency.benchmark import benchmark
from compactnets.segmentation.checkpoint import SegmenterRecord, build
from compactnets.segmentation.cost import planned_record
from compactnets.segmentation.export import SegmenterSubject
from compactnets.segmentation.prediction import label_image
from compactnets.training.checkpoint import save_checkpoint
from compactnets.web.site import build_site

from ..conftest import Once
from ..detection.lively import lively_detector
from .conftest import needs_compilers
from .helpers import Visit
from .layout import check

Open = Callable[..., Visit]
SIZE = (64, 96)
NAME = "LR-ASPP on test_resnet"
NAMES = ["grass", "ball", "box", "sky"]
PHOTOGRAPH = load_sample_images().images[0]


class Few(nn.Module):
    """A segmenter of one layer, which compiles at once: (N, 3, H, W) -> (N, classes, H / 8, W / 8)."""

    auxiliary = None

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, len(NAMES), 9, stride=8, padding=4)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layer(images)
        return scores


def subject(network: nn.Module | None = None, size: tuple[int, int] | None = SIZE) -> SegmenterSubject:
    """A network that finds every class in the photograph; by default the one of a layer."""
    torch.manual_seed(0)
    changes = {"size": size, "class_names": NAMES, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    record = planned_record("test_resnet", "lraspp").model_copy(update=changes)
    made = Few() if network is None else build(record)
    found: Any = SegmenterSubject(made, record)
    with torch.no_grad():
        for _ in range(20 if network is not None else 1):  # normalisations get used to the photograph
            scores = made(found.resized(SIZE).prepare(Image.fromarray(PHOTOGRAPH))[None].repeat(2, 1, 1, 1))
    last: Any = made.layer if network is None else made.head.high_classifier
    last.bias.data -= scores.mean((0, 2, 3))
    made.eval()
    return found


def write_artifact(folder: Path) -> None:
    with set_variables({"CFLAGS": "-O1"}):  # as for the other artifacts of these tests
        export_subject(subject(), "c", folder / "few")


@pytest.fixture(scope="session")
def both_site(once: Once, built_page: Path, artifacts: Path) -> Path:
    """A page with a segmenter and a classifier."""
    networks = [str(once("segmenter", write_artifact) / "few"), str(artifacts / "tiny")]
    return once("both-site", lambda folder: build_site(networks, folder, page=built_page))


def labels_of(network: dict[str, Any]) -> np.ndarray:
    """The mask that the page saves, (H, W)."""
    mask = network["mask"]
    labels, lengths = np.array(mask["runs"]).reshape(-1, 2).T
    return np.repeat(labels, lengths).reshape(mask["height"], mask["width"])


def check_masks(page: Visit, network: SegmenterSubject, folder: Path) -> None:
    """A photograph that is scaled down, a small picture that is scaled up, and one turned by its EXIF."""
    photograph, exif = Image.fromarray(PHOTOGRAPH), Image.Exif()
    photograph.save(folder / "photograph.png")
    photograph.resize((50, 33)).save(folder / "small.png")
    exif[0x0112] = 6
    photograph.resize((301, 200)).save(folder / "turned.png", exif=exif)
    for name in ("photograph", "small", "turned"):
        (found,) = page.classify(folder / f"{name}.png")["networks"]
        image = read_image(folder / f"{name}.png")
        expected = label_image(network.model, network.record, image, torch.device("cpu"))
        assert expected.shape == (image.height, image.width)
        assert (labels_of(found) == expected).mean() >= 0.999, name
        shares = np.bincount(expected.ravel(), minlength=len(NAMES)) / expected.size
        assert (shares > 0.02).sum() >= 2, "a mask of one class shows nothing"
        assert list(found["shares"]) == NAMES
        assert np.allclose(list(found["shares"].values()), shares, atol=1e-3)
    assert page.complaints == []


def test_the_mask_is_that_of_predict(visit: Open, both_site: Path, tmp_path: Path) -> None:
    (entry, classifier) = json.loads((both_site / "networks.json").read_text())["networks"]
    assert (entry["task"], entry["map"], entry["preprocess"]["size"]) == ("segmentation", [8, 12], [64, 96])
    assert entry["colours"] == [list(class_colour(label)) for label in range(4)]
    assert (classifier["task"], "map" in classifier) == ("classification", False)
    page = visit(both_site).open()
    check_masks(page, subject(), tmp_path)
    page.classify(tmp_path / "small.png")
    # the overlay is the image under the classes' colours, as predict mixes them
    (found,) = page.result()["networks"]
    canvas = "const c = document.querySelector('.overlay canvas');"
    shown = page.page.evaluate(
        f"() => {{ {canvas} return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }}"
    )
    colours = np.array(entry["colours"])[labels_of(found)]
    pixels = np.asarray(read_image(tmp_path / "small.png"))
    drawn = np.array(shown).reshape(*pixels.shape[:2], 4)[..., :3]
    assert np.abs(drawn - (0.45 * pixels + 0.55 * colours)).max() <= 1
    largest = max(found["shares"].items(), key=lambda each: each[1])
    legend = page.page.locator(".top li").all_inner_texts()
    assert legend[0].split() == [largest[0], f"{100 * largest[1]:.1f}", "%"]
    assert page.status.startswith(f"small.png: {largest[0]}, ")


def test_beside_a_classifier_and_from_the_camera(visit: Open, both_site: Path, picture: Path) -> None:
    page = visit(both_site, permissions=["camera"]).open().choose("tiny", NAME)
    first, second = page.classify(picture)["networks"]
    assert ("logits" in first, "mask" in first) == (True, False)
    assert ("logits" in second, "mask" in second) == (False, True)
    facts = page.page.inner_text("#facts")
    assert "another task" in facts
    assert "64 x 96" in facts
    page.choose(NAME)
    page.page.click("#camera")
    page.wait("live", "error")
    page.page.wait_for_selector(".overlay canvas")
    size = page.page.eval_on_selector("video", "video => [video.videoHeight, video.videoWidth]")
    page.page.click("#camera")
    page.wait("done")
    (found,) = page.result()["networks"]
    assert labels_of(found).shape == tuple(size)
    assert page.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_overlay_fits(visit: Open, both_site: Path, tmp_path: Path, width: int) -> None:
    page = visit(both_site, viewport={"width": width, "height": 844}).open()
    page.page.click("#examples button >> nth=0")
    page.wait("done")
    check(page, tmp_path / "overlay")
    page.choose(NAME, "tiny").wait("done")
    check(page, tmp_path / "compare")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["planar", "onnx"])
def test_a_checkpoint_in_both_engines(visit: Open, built_page: Path, tmp_path: Path, engine: str) -> None:
    needs_compilers()
    pytest.importorskip("onnxruntime")
    network = subject(nn.Identity())
    save_checkpoint(tmp_path / "best.safetensors", network.model.state_dict(), network.record)
    build_site([str(tmp_path / "best.safetensors")], tmp_path / "site", page=built_page, engine=engine)
    page = visit(tmp_path / "site").open()
    check_masks(page, network, tmp_path)
    assert page.result()["networks"][0]["engine"]["name"] == {"onnx": "onnxruntime-web"}.get(engine, engine)


def test_what_the_page_cannot_show_is_one_line(built_page: Path, tmp_path: Path) -> None:
    """A detector, which the benchmark does not measure either, and a segmenter that leaves its size open."""
    made, record = lively_detector("ssd")
    detector, site = tmp_path / "a.safetensors", tmp_path / "site"
    save_checkpoint(detector, made.state_dict(), record)
    with pytest.raises(InputError, match=r"^detection has no web: .*a\.safetensors is a network for detection$"):
        build_site([str(detector)], site, page=built_page)
    with pytest.raises(InputError, match=r"^detection has no benchmark: .*a\.safetensors is a network for detection$"):
        benchmark([str(detector)], ["onnx"])
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "artifact.json").write_text('{"task": "detection"}')
    with pytest.raises(InputError, match=r"^detection has no web: .*artifact is a network for detection$"):
        build_site([str(tmp_path / "artifact")], site, page=built_page)
    network = subject(nn.Identity(), size=None)
    assert isinstance(network.record, SegmenterRecord)
    save_checkpoint(tmp_path / "any.safetensors", network.model.state_dict(), network.record)
    with pytest.raises(InputError, match=r"any size, and the page needs one: export it with .* --size HEIGHTxWIDTH"):
        build_site([str(tmp_path / "any.safetensors")], site, page=built_page)
    assert not site.exists()
