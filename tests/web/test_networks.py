"""Networks of the package in the page: through `compactnets web`, on photographs, as PyTorch computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from compactnets.classification.checkpoint import load_checkpoint
from compactnets.classification.legacy import convert
from compactnets.classification.quantization import quantize
from compactnets.data import Preprocess, open_source
from compactnets.deploy.int8 import Settings
from compactnets.models.registry import create_model
from compactnets.tasks.opening import open_model
from compactnets.training.checkpoint import save_checkpoint
from compactnets.web.site import build_site

from ..deploy.helpers import tiny_network, tiny_record, write_pictures
from .conftest import needs_compilers
from .helpers import TINY, Visit, expected_logits, record_of

Open = Callable[..., Visit]
TOLERANCE = 1e-4  # of the largest logit


@pytest.mark.slow  # its export takes longest; the tiny network has its units
def test_muffnet_equals_pytorch(visit: Open, built_page: Path, tmp_path: Path) -> None:
    """Fresh weights, through a checkpoint; the export is the registry's, of 64 x 64 pixels."""
    needs_compilers()
    arguments: dict[str, Any] = {"num_classes": 10, "in_chans": 3}
    torch.manual_seed(0)
    model = create_model("muffnet_x0_5", **arguments).eval()
    preprocess = Preprocess(size=64, resize=72, mean=TINY.mean, std=TINY.std)
    record = record_of("muffnet_x0_5", preprocess, 10).model_copy(update={"arguments": arguments})
    save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), record)
    build_site([str(tmp_path / "best.safetensors")], tmp_path / "site", page=built_page)
    page = visit(tmp_path / "site").open()
    for number, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels).save(tmp_path / f"photo-{number}.png")
        result = page.classify(tmp_path / f"photo-{number}.png")["networks"][0]
        assert result["engine"]["name"] == "planar"
        expected = expected_logits(model, preprocess, tmp_path / f"photo-{number}.png")
        assert np.abs(result["logits"] - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert page.complaints == []


@pytest.mark.slow  # quantises a network first
def test_an_int8_network_runs_as_in_python(visit: Open, built_page: Path, tmp_path: Path) -> None:
    """The same int8 arithmetic, but for values between two steps, and not what float gives."""
    pytest.importorskip("onnxruntime")
    model, pictures = tiny_network(), write_pictures(tmp_path / "images")
    options: dict[str, Any] = {"calibration": str(pictures), "evaluation": str(pictures), "max_drop": 100, "rounds": 1}
    settings = Settings(calibration_images=10)
    quantize(model, tiny_record(), "onnx", tmp_path / "int8", settings=settings, **options)
    build_site([str(tmp_path / "int8")], tmp_path / "site", page=built_page)
    page = visit(tmp_path / "site").open()
    int8 = open_model(tmp_path / "int8", "cpu")
    preprocess = Preprocess.from_dict(int8.record.preprocess)
    for picture in sorted(pictures.glob("*/0.png")):
        found = page.classify(picture)["networks"][0]["logits"]
        expected, plain = (expected_logits(network, preprocess, picture) for network in (int8.network, model))
        assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()
        assert np.abs(found - plain).max() > 1e-3 * np.abs(plain).max()
    assert page.complaints == []


@pytest.mark.slow  # exports and checks a network of 224 x 224 pixels first
def test_the_authors_menet_classifies_photographs_as_pytorch_does(
    visit: Open, built_page: Path, shared: Path, tmp_path: Path
) -> None:
    """The JPEG files as they are: Chromium and Pillow decode these to the same pixels."""
    needs_compilers()
    name = "108-MENet-8x1-group-3"
    checkpoint = tmp_path / "menet.safetensors"
    convert(shared / "weights" / f"{name}.pth.tar", "menet_108_8x1_g3", checkpoint)
    model, record = load_checkpoint(checkpoint)
    reference = np.load(shared / "weights" / f"{name}.reference.npz")
    source = open_source(str(shared / "data" / "imagenet_sample"), "val")
    build_site([str(checkpoint)], tmp_path / "site", page=built_page)
    page = visit(tmp_path / "site").open()
    for index in range(8):
        photo = tmp_path / f"photo-{index}.jpg"
        photo.write_bytes(source.encoded(index) or b"")
        result = page.classify(photo)["networks"][0]
        assert result["engine"]["name"] == "planar"
        found = np.array(result["logits"])
        expected = expected_logits(model, Preprocess.from_dict(record.preprocess), photo)
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
        assert np.abs(found - reference["logits"][index]).max() <= TOLERANCE * np.abs(expected).max()
        best = np.argsort(-reference["logits"][index])[:5]
        assert [guess["label"] for guess in result["top5"]] == [record.labels[known] for known in best]
    assert page.complaints == []
