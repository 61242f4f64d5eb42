"""Artifacts of segmenters: every format agrees with PyTorch, and int8 within its limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from compactnets.deploy.formats.registry import FORMATS
from compactnets.errors import InputError, LimitError
from compactnets.segmentation.checkpoint import SegmenterRecord, build
from compactnets.segmentation.cost import planned_record
from compactnets.segmentation.export import export_segmenter, load_segmenter_artifact

from .scenes import NAMES


def network(head: Literal["lraspp", "deeplabv3plus"], **changes: Any) -> tuple[Any, SegmenterRecord]:
    """A network with fresh weights, whose normalisations have seen noise."""
    torch.manual_seed(0)
    record = planned_record("test_resnet", head, settings=["auxiliary=0.4"]).model_copy(
        update={"size": (64, 96), "class_names": list(NAMES), **changes}
    )
    made = build(record).train()
    with torch.no_grad():
        for _ in range(20):
            made(torch.randn(4, 3, 64, 96))
    return made.eval(), record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "form"),
    [
        *(("lraspp", name) for name in ("onnx", "openvino", "executorch", "litert", "ncnn", "torch")),
        *(("deeplabv3plus", name) for name in ("onnx", "ncnn", "torch")),
    ],
)
def test_an_artifact_gives_the_scores_of_its_network(
    tmp_path: Path, head: Literal["lraspp", "deeplabv3plus"], form: str
) -> None:
    for package in FORMATS[form].packages:
        pytest.importorskip(package.replace("-", "_"))
    made, record = network(head)
    artifact = export_segmenter(made, record, tmp_path / "a", form)
    assert all(check.relative_difference <= 1e-4 for check in artifact.verification.checks)
    assert all(check.equal_pixels >= 0.999 for check in artifact.verification.checks)
    loaded, found = load_segmenter_artifact(tmp_path / "a", None)
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), made(images), rtol=1e-3, atol=1e-4)
    assert (found.size, found.class_names) == ((64, 96), list(NAMES))
    assert artifact.params < sum(each.numel() for each in made.parameters())  # without the auxiliary head
    if not FORMATS[form].any_size:
        with pytest.raises(InputError, match=r"takes images of \[3, 64, 96\]"):
            loaded(torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
def test_a_differing_artifact_is_not_kept(tmp_path: Path) -> None:
    made, record = network("lraspp")
    with pytest.raises(LimitError, match="not kept"):
        export_segmenter(made, record, tmp_path / "a", "torch", tolerance=0.0)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_the_format_c_names_what_it_lacks(tmp_path: Path) -> None:
    made, record = network("lraspp")
    with pytest.raises(InputError, match="does not support") as error:
        export_segmenter(made, record, tmp_path / "a", "c")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a").exists()


def test_a_format_of_one_size_needs_one(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    made, record = network("lraspp", size=None)
    with pytest.raises(InputError, match="--size HEIGHTxWIDTH"):
        export_segmenter(made, record, tmp_path / "a", "executorch")
