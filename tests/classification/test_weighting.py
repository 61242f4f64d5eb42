"""Unequal classes: weights in the loss, and classes that are drawn equally often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from compactnets import InputError
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.setup import ClassificationObjective, MicroBatch
from compactnets.classification.task import TASK
from compactnets.classification.weighting import class_weights, note_sampling
from compactnets.data import ImageSource
from compactnets.training.recipe_files import load_recipe
from tests.data.listed import ListedSource, noisy
from tests.training.helpers import digits_part, make_tiny_recipe, metrics

COUNTS = {"0": 12, "1": 3, "2": 0, "3": 45}


def unequal() -> ListedSource:
    source = noisy(sum(COUNTS.values()), 8, 8)
    source.class_names = tuple(COUNTS)
    source.labels = np.repeat(np.arange(len(COUNTS)), [*COUNTS.values()])
    return source


def weights(**settings: Any) -> torch.Tensor:
    found = class_weights(make_tiny_recipe(**settings), unequal())
    assert found is not None
    return found


def test_balanced_weights_are_scikit_learns(capsys: pytest.CaptureFixture[str]) -> None:
    source = unequal()
    found = weights(class_weights="balanced")
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=source.labels)
    np.testing.assert_allclose(found[[0, 1, 3]], expected, rtol=1e-6)
    assert found.dtype == torch.float32
    assert capsys.readouterr().err == (
        "class_weights: 1 6.67 (3 images), 0 1.67 (12 images), 2 1 (0 images), 3 0.444 (45 images)\n"
    )
    assert class_weights(make_tiny_recipe(), source) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_given_weights_have_a_mean_of_one_over_what_is_drawn(sampling: str) -> None:
    found = weights(class_weights={"1": 4, "3": 0.5}, sampling=sampling)
    np.testing.assert_allclose((found / found[0]).tolist(), [1, 4, 1, 0.5], rtol=1e-6)
    drawn = [12, 3, 0, 45] if sampling == "uniform" else [1, 1, 0, 1]
    assert np.average(found, weights=drawn) == pytest.approx(1)


def test_weights_of_equal_classes_change_nothing() -> None:
    with pytest.warns(UserWarning, match="class_weights has no effect with sampling = 'balanced'"):
        found = weights(class_weights="balanced", sampling="balanced")
    assert found.tolist() == [1, 1, 1, 1]


def test_the_loss_is_torchs_with_the_labels_mixed_or_not() -> None:
    recipe = make_tiny_recipe(label_smoothing=0.1)
    chosen = torch.tensor([0.5, 2.0, 1.0])
    objective = ClassificationObjective(recipe, 4, 3, weights=chosen)
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1, 0, 2])
    images = torch.zeros(6, 1, 8, 8)

    def loss(targets: torch.Tensor) -> torch.Tensor:
        return objective.losses(lambda _: logits, MicroBatch(images, targets, images))["cross_entropy"]

    found = loss(labels)
    expected = F.cross_entropy(logits, labels, weight=chosen, label_smoothing=0.1, reduction="none")
    assert torch.equal(found, expected)
    shares = F.one_hot(labels, 3) * 0.9 + 0.1 / 3  # as timm's Mixup gives them
    torch.testing.assert_close(loss(shares), found)


@pytest.mark.parametrize(
    ("setting", "facts"),
    [
        ("class_weights=even", ("class_weights", "none, balanced", "'even'")),
        ("class_weights=[1, 2]", ("class_weights", "[1, 2]")),
        ("class_weights={cat: 0}", ("class_weights", "cat", "above 0", "found 0")),
        ("class_weights={cat: -1}", ("class_weights", "cat", "found -1")),
        ("class_weights={cat: true}", ("class_weights", "cat", "found true")),
        ("class_weights={cat: .nan}", ("class_weights", "cat", "found nan")),
        ("class_weights={cat: two}", ("class_weights", "cat", "found 'two'")),
        ("sampling=random", ("sampling", "'balanced'", "'random'")),
    ],
)
def test_wrong_settings_are_one_line(setting: str, facts: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        load_recipe(ClassificationRecipe, "cifar/short", [setting])
    assert "\n" not in str(error.value)
    assert all(fact in str(error.value) for fact in facts), error.value


def test_how_weights_may_be_written() -> None:
    def taken(*settings: str) -> Any:
        return load_recipe(ClassificationRecipe, "cifar/short", settings).class_weights

    assert taken() == taken("class_weights={}") == "none"
    assert taken("class_weights.cat=3", "class_weights.dog=0.5") == {"cat": 3, "dog": 0.5}
    assert taken("class_weights={'7': 2}") == {"7": 2.0}


def test_an_unknown_class_is_refused() -> None:
    source = unequal()
    source.class_names = ("robin", "sparrow", "crow", "owl")
    with pytest.raises(InputError, match=r"class_weights: listed has no class 'sparow'; did you mean .sparrow."):
        class_weights(make_tiny_recipe(class_weights={"sparow": 2}), source)
    with pytest.raises(InputError, match=r"no class 'zzz' \(its classes: robin, sparrow, crow, owl\)"):
        class_weights(make_tiny_recipe(class_weights={"zzz": 2}), source)


def test_what_is_drawn_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    note_sampling(make_tiny_recipe(sampling="balanced", batch_size=20), unequal())
    assert capsys.readouterr().err == (
        "sampling: balanced: an epoch has 20 images of every class, 1's 3 6.67 times each and 3's 45 0.444 times each\n"
    )
    note_sampling(make_tiny_recipe(), unequal())
    assert capsys.readouterr().err == ""


def test_a_run_uses_both(tmp_path: Path) -> None:
    """The other settings equal: other weights, another loss."""

    def train(name: str, sources: tuple[ImageSource, ImageSource], **settings: Any) -> float:
        TASK.train(make_tiny_recipe(**settings), *sources, tmp_path / name)
        return float(metrics(tmp_path / name)[0]["train_loss"])

    sources = digits_part(64, 10)
    losses = [
        train("plain", sources),
        train("weighted", sources, class_weights={"0": 5.0}),
        train("balanced", sources, sampling="balanced"),
    ]
    assert len(set(losses)) == 3
    assert "class_weights:\n" in (tmp_path / "weighted" / "recipe.yaml").read_text()
    with pytest.raises(InputError, match="class_weights was 'none', now 'balanced'"):
        train("plain", sources, class_weights="balanced")
    # a run of a version without the settings resumes
    newest = max((tmp_path / "plain" / "checkpoints").iterdir())
    document = torch.load(newest, weights_only=True)
    for key in ("class_weights", "sampling", "split"):
        del document["run"][key]
    torch.save(document, newest)
    assert train("plain", sources, epochs=2) == losses[0]
    assert len(metrics(tmp_path / "plain")) == 2
