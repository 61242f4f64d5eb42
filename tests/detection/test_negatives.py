"""Images without objects teach a detector: what it finds in them falls, for both detectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.models.detection import ssd as torchvision_ssd

from compactnets.detection.checkpoint import first_detector
from compactnets.detection.data.opening import open_detection
from compactnets.detection.evaluation import find_objects
from compactnets.detection.recipe import DetectionRecipe
from compactnets.detection.task import TASK
from compactnets.errors import InputError

from .helpers import SIDE, SSD, draw_scene, tiny_recipe

Sample = tuple[Tensor, dict[str, Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What is learned in few steps depends on the rounding, and that on the threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sample(image: Image.Image, boxes: list[tuple[int, ...]], labels: list[int]) -> Sample:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    target = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels).long()}
    return pixels, target


def scene(seed: int) -> Sample:
    image, boxes = draw_scene(seed)
    return sample(image, [box[1:] for box in boxes], [1 if box[0] == "blue" else 2 for box in boxes])


def green(seed: int, labels: list[int]) -> Sample:
    """An image with one green rectangle, which is an object only where it has a label."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(90, 150, (SIDE, SIDE, 3), dtype=np.uint8))
    left, top = random.integers(8, 50, 2).tolist()
    box = (left, top, left + 32, top + 32)
    ImageDraw.Draw(image).rectangle(box, fill=(40, 200, 60))
    return sample(image, [box] * len(labels), labels)


def take_steps(detector: Any, samples: list[Sample], steps: int) -> None:
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    detector.train()
    for _ in range(steps):
        losses = detector([image for image, _ in samples], [target for _, target in samples])
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5)
        optimizer.step()
        optimizer.zero_grad()


def best_score(detector: Any, image: Tensor) -> float:
    found = find_objects(detector.eval(), [image])[0]
    return float(found.scores.max()) if len(found) else 0.0


def score_before_and_after(recipe: DetectionRecipe, learned: int, unlearned: int) -> tuple[float, float]:
    """Learn that a green rectangle is an object; then go on with the same image, of which nothing is said."""
    detector: Any = first_detector(recipe, ["blue", "red"], None)[0]
    take_steps(detector, [scene(0), green(0, [1])], learned)
    before = best_score(detector, green(0, [])[0])
    take_steps(detector, [scene(0), green(0, [])], unlearned)
    return before, best_score(detector, green(0, [])[0])


def test_a_false_positive_of_ssd_falls() -> None:
    before, after = score_before_and_after(tiny_recipe("ssd"), 40, 15)
    assert before > 0.5
    assert after < before / 2


@pytest.mark.slow
def test_a_false_positive_of_faster_rcnn_falls() -> None:
    before, after = score_before_and_after(tiny_recipe("faster_rcnn"), 60, 20)
    assert before > 0.5
    assert after < before / 2


@pytest.mark.parametrize("detector", ["ssd", "faster_rcnn"])
def test_a_batch_without_an_object_has_a_loss(detector: str) -> None:
    """Of classes, and none of boxes: every score falls."""
    found: Any = first_detector(tiny_recipe(detector), ["blue", "red"], None)[0].train()
    losses = found(*zip(green(0, []), green(1, []), strict=True))
    assert all(loss.isfinite() for loss in losses.values())
    classes, boxes = ("classification", "bbox_regression") if detector == "ssd" else ("loss_classifier", "loss_box_reg")
    assert losses[classes] > 0.1
    assert losses[boxes] == 0
    if detector == "faster_rcnn":
        assert losses["loss_objectness"] > 0.1
    sum(losses.values()).backward()
    head = found.head.classification_head if detector == "ssd" else found.roi_heads.box_predictor.cls_score
    assert any(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def loss_of(kind: Any, samples: list[Sample], least: int) -> dict[str, float]:
    found: Any = first_detector(tiny_recipe("ssd", ssd={**SSD, "least_negatives": least}), ["blue", "red"], None)[0]
    found.train().compute_loss = kind.__get__(found)
    with torch.no_grad():
        losses = found([image for image, _ in samples], [target for _, target in samples])
    return {name: float(loss) for name, loss in losses.items()}


def test_the_loss_is_torchvisions_where_every_image_has_an_object() -> None:
    ours = type(first_detector(tiny_recipe("ssd"), ["blue", "red"], None)[0]).compute_loss
    theirs = torchvision_ssd.SSD.compute_loss
    busy, half = [scene(0), scene(1)], [scene(0), green(0, [])]
    for samples, least, alike in ((busy, 3, True), (busy, 0, True), (half, 0, True), (half, 3, False)):
        one, other = loss_of(ours, samples, least), loss_of(theirs, samples, least)
        assert (one == pytest.approx(other, rel=1e-5)) == alike


def test_an_image_without_objects_counts_as_one_of_few() -> None:
    """Three times the mean of the hardest anchors of each image, as beside a positive."""
    ours = type(first_detector(tiny_recipe("ssd"), ["blue", "red"], None)[0]).compute_loss
    heads: list[Tensor] = []

    def watched(self: Any, targets: Any, outputs: Any, *others: Any) -> Any:
        heads.append(outputs["cls_logits"])
        return ours(self, targets, outputs, *others)

    for least in (3, 300):
        loss = loss_of(watched, [green(0, []), green(1, [])], least)["classification"]
        losses = -heads.pop().log_softmax(-1)[..., 0]
        assert loss == pytest.approx(3 * float(losses.topk(least, dim=1).values.mean()), rel=1e-4)


def test_shared_cases_with_images_without_objects(shared: Path, tmp_path: Path) -> None:
    for case in ("v16_negatives", "v17_all_negative_train"):
        data = str(shared / "cases" / "detection" / case)
        sources = open_detection(data, "train"), open_detection(data, "val")
        if case == "v16_negatives":
            TASK.train(tiny_recipe("ssd"), *sources, tmp_path / case)
            assert (tmp_path / case / "best.safetensors").exists()
        else:
            with pytest.raises(InputError, match="object"):
                TASK.train(tiny_recipe("ssd"), *sources, tmp_path / case)
            assert not (tmp_path / case / "checkpoints").exists()
