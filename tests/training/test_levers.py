"""Settings of fast recipes: each does what it says, refuses what it cannot do, and resumes exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from compactnets import InputError, create_model
from compactnets.classification import preparation
from compactnets.classification import setup as classification
from compactnets.classification.distillation import Teacher
from compactnets.classification.preparation import open_splits, prepare
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.setup import ClassificationObjective
from compactnets.classification.task import TASK
from compactnets.data import Augment, ImageSource, Preprocess
from compactnets.data.loading import Batch, make_train_loader
from compactnets.data.order import Draws
from compactnets.data.part import hold_out
from compactnets.data.transform import TrainTransform
from compactnets.nn import whiten, zero_residuals
from compactnets.training.distributed import World
from compactnets.training.muon import Muon, as_matrices, from_matrices, is_kernel, orthogonalize
from compactnets.training.optimization import make_optimizer
from compactnets.training.recipe import Optimizer
from compactnets.training.recipe_files import load
from compactnets.training.step import Learner

from .helpers import TINY, digits_part, make_tiny_recipe

# alternating flips


def shown(flip: bool | str, epoch: int, source: ImageSource) -> dict[int, torch.Tensor]:
    augment = Augment.model_validate({"flip": flip})
    loader = make_train_loader(source, augment, source.default_preprocess, batch_size=20, seed=3)
    found = {}
    for batch in loader.epoch(epoch):
        found |= dict(zip(batch.indices.tolist(), batch.images, strict=True))
    return found


def test_an_image_is_mirrored_in_every_second_epoch() -> None:
    source = digits_part(100, 10)[0]
    plain = shown(False, 0, source)
    epochs = [shown("alternate", epoch, source) for epoch in range(4)]
    mirrored = []
    for index, image in plain.items():
        assert torch.equal(epochs[0][index], epochs[2][index])
        assert torch.equal(epochs[1][index], epochs[3][index])
        assert torch.equal(epochs[0][index], epochs[1][index].flip(2))
        mirrored.append(torch.equal(epochs[0][index], image.flip(2)))
        assert mirrored[-1] or torch.equal(epochs[0][index], image)
    assert 30 < sum(mirrored) < 70
    chance = [shown(True, epoch, source) for epoch in range(2)]
    assert any(torch.equal(chance[0][index], chance[1][index]) for index in plain)


def test_images_one_by_one_are_mirrored_as_in_a_batch() -> None:
    transform = TrainTransform(Augment(flip="alternate"), Preprocess(size=4, resize=None, mean=(0.5,), std=(0.5,)))
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    together = transform.flips(Draws.of(5, 1, np.arange(50)))
    for index in range(50):
        pixels = transform.pixels(image, Draws.of(5, 1, index))[..., 0].numpy()
        assert np.array_equal(pixels, np.asarray(image)[:, ::-1]) == together[index]
    assert 0 < together.sum() < 50


# Muon


def test_orthogonal_updates() -> None:
    """Singular values end near one, in the directions of the matrix, wide or tall."""
    torch.manual_seed(0)
    for rows, columns in ((6, 20), (20, 6), (8, 8)):
        matrix = torch.randn(2, rows, columns)
        found = orthogonalize(matrix)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        values = u.mT @ found @ v.mT
        assert found.shape == matrix.shape
        diagonal = values.diagonal(dim1=1, dim2=2)
        assert diagonal.min() > 0.2  # small ones may not have risen yet
        assert diagonal.max() < 1.3
        assert (values - torch.diag_embed(diagonal)).abs().max() < 1e-4


def test_muon_does_what_torchs_does() -> None:
    """On matrices, which are all that torch's takes; its iteration is in bfloat16."""
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 8, 1, bias=False)
    matrix = nn.Parameter(conv.weight.detach()[:, :, 0, 0].clone())
    ours = make_optimizer(conv, Optimizer(name="muon", momentum=0.9, weight_decay=0.1), lr=0.1)
    theirs = torch.optim.Muon([matrix], lr=0.1, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    before = matrix.detach().clone()
    for _ in range(4):
        gradient = torch.randn(8, 12)
        conv.weight.grad, matrix.grad = gradient[:, :, None, None].clone(), gradient.clone()
        ours.step()
        theirs.step()
    moved = (matrix - before).norm()
    assert (conv.weight[:, :, 0, 0] - matrix).norm() < 0.02 * moved
    assert moved > 0.1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_grouped_kernel_is_a_matrix_per_group(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, groups=2, bias=False).to(memory_format=layout)
    gradient = torch.randn_like(conv.weight)
    assert torch.equal(from_matrices(as_matrices(conv.weight, 2), conv.weight), conv.weight)
    before = conv.weight.detach().clone()
    optimizer = make_optimizer(conv, Optimizer(name="muon", momentum=0.0, weight_decay=0.0), lr=0.1)
    conv.weight.grad = gradient.clone()
    optimizer.step()
    for half in (slice(0, 4), slice(4, 8)):
        alone = orthogonalize(gradient[half].flatten(1)[None])[0].reshape(4, 3, 3, 3)
        wanted = before[half] - 0.1 * 0.2 * 27**0.5 * alone
        torch.testing.assert_close(conv.weight[half], wanted, rtol=1e-3, atol=1e-5)


def test_everything_but_kernels_learns_by_adamw() -> None:
    """Depthwise kernels, normalisation and the classifier; a kernel's gradient does not reach AdamW."""
    models = [create_model(TINY, num_classes=3, stem="cifar") for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    ours = make_optimizer(models[0], Optimizer(name="muon", weight_decay=0.1, betas=(0.8, 0.9)), lr=0.01)
    theirs = torch.optim.AdamW(models[1].parameters(), lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    assert isinstance(ours, Muon)
    for seed in range(3):
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    kernels = {id(module.weight) for module in models[0].modules() if is_kernel(module)}
    apart = [module for module in models[0].modules() if isinstance(module, nn.Conv2d) and not is_kernel(module)]
    assert kernels
    assert apart
    assert all(module.groups == module.in_channels for module in apart)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        same = torch.allclose(one, other, rtol=1e-4, atol=1e-6)
        assert same == (id(one) not in kernels), name
    groups = ours.param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(models[0].parameters()))


# images that grow


def growing(**changes: Any) -> ClassificationRecipe:
    phases = [{"size": 4, "share": 0.25}, {"size": 6, "share": 0.5}]
    return make_tiny_recipe(**{"epochs": 2, "progressive": phases, **changes})


def test_images_grow_with_the_steps_and_the_teacher_sees_them_whole() -> None:
    seen: list[torch.Size] = []

    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.shape)
            return x.flatten(1)[:, :3]

    recipe = growing(channels_last=True, accumulate=2)
    objective = ClassificationObjective(recipe, 4, 3, Teacher("a test", Network(), ""))
    torch.manual_seed(0)
    batch = Batch(torch.randn(8, 2, 8, 8), torch.randint(3, (8,)), torch.arange(8))
    sizes = []
    for step in range(8):
        parts = objective.micro_batches(batch, step)
        sizes.append(parts[0].images.shape[-1])
        whole = torch.cat([part.images for part in parts])
        size = (sizes[-1], sizes[-1])
        torch.testing.assert_close(whole, F.interpolate(batch.images, size, mode="bilinear", antialias=True))
        assert parts[0].images.is_contiguous(memory_format=torch.channels_last) or sizes[-1] == 8
        objective.losses(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), parts[0])
    assert sizes == [4, 4, 6, 6, 6, 6, 8, 8]
    assert set(seen) == {torch.Size((4, 2, 8, 8))}
    assert growing().dynamic is False  # each size is compiled
    assert make_tiny_recipe().dynamic is None


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ([{"size": 6, "share": 0.2}, {"size": 4, "share": 0.2}], "rise"),
        ([{"size": 4, "share": 0.5}, {"size": 6, "share": 0.5}], "full size"),
        ([{"size": 4 + n, "share": 0.1} for n in range(7)], "at most 6"),
        ([{"size": 0, "share": 0.1}], "size"),
        ([{"size": 4, "share": 1.5}], "share"),
        ([{"size": 4}], "share"),
        (4, "list"),
    ],
)
def test_sizes_that_do_not_grow_are_refused(phases: Any, told: str) -> None:
    with pytest.raises(InputError, match="progressive") as error:
        load(ClassificationRecipe, growing().model_dump(mode="json") | {"progressive": phases}, "a test")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_that_the_images_or_the_network_do_not_have(tmp_path: Path) -> None:
    sources = digits_part(40, 10)
    with pytest.raises(InputError, match="below the images' 8 pixels, found 8"):
        TASK.train(growing(progressive=[{"size": 8, "share": 0.5}]), *sources, tmp_path)
    # seven convolutions with three poolings leave nothing of four pixels
    with pytest.raises(InputError, match="plainnet7 does not take images of 4 x 4"):
        TASK.train(growing(model="plainnet7"), *sources, tmp_path)


# images held out


def test_images_held_out_are_each_classs_share() -> None:
    source = digits_part(200, 10)[0]
    rest, held = hold_out(source, 50)
    assert (len(rest), len(held)) == (150, 50)
    names = [part.name(index) for part in (rest, held) for index in range(len(part))]
    assert len(set(names)) == 200
    share = np.bincount(held.labels, minlength=10) / np.bincount(source.labels, minlength=10)
    assert (abs(np.bincount(held.labels, minlength=10) - np.bincount(source.labels, minlength=10) / 4) < 1).all(), share
    again = hold_out(source, 50)[1]
    assert again.fingerprint() == held.fingerprint()
    assert again.content() == held.content() != rest.content()
    for part in (rest, held):
        for index in range(0, len(part), 17):
            whole = [source.name(each) for each in range(200)].index(part.name(index))
            assert part.labels[index] == source.labels[whole]
    for count in (200, 191):
        with pytest.raises(InputError, match=f"hold_out = {count}"):
            hold_out(source, count)
    assert len(hold_out(source, 190)[0]) == 10


def test_a_run_evaluates_on_what_it_holds_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = []

    open_source = preparation.open_source

    def watched(name: str, split: Any, **options: Any) -> Any:
        opened.append(split)
        return open_source(name, split, **options)

    monkeypatch.setattr(preparation, "open_source", watched)
    train, val = open_splits("digits", 300)
    assert opened == ["train"]
    assert len(val) == 300
    assert "300 training images" in capsys.readouterr().err
    whole, test = open_splits("digits")
    assert opened == ["train", "train", "val"]
    assert len(train) + len(val) == len(whole)
    assert test.split == "val"


# fresh weights


def test_the_stem_whitens_patches() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(3, 3)
    images = torch.einsum("nchw,cd->ndhw", torch.randn(40, 3, 8, 8), mixing)
    conv = nn.Conv2d(3, 60, 3, bias=False)
    rest = conv.weight.detach()[54:].clone()
    whiten(conv, images, eps=0.0)
    found = F.conv2d(images, conv.weight)
    flat = found.transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.cov(flat[:27], correction=0), torch.eye(27), rtol=0, atol=2e-3)
    torch.testing.assert_close(flat[27:54], -flat[:27])
    assert torch.equal(conv.weight[54:], rest)
    assert not conv.weight.requires_grad
    few = nn.Conv2d(3, 10, 3, bias=False)  # the five strongest directions
    whiten(few, images)
    assert few.weight[:5].flatten(1).norm(dim=1).diff().min() > 0
    with pytest.raises(ValueError, match="channels"):
        whiten(nn.Conv2d(1, 4, 3), images)


def test_a_whitened_stem_stays(tmp_path: Path) -> None:
    sources, recipe = digits_part(64, 10), make_tiny_recipe(whiten_stem=True)
    before = prepare(recipe, sources[0]).model.state_dict()
    TASK.train(recipe, *sources, tmp_path)
    after = load_file(tmp_path / "last.safetensors")
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert "stem.conv.conv.weight" in same
    assert "stages.0.0.compress.conv.weight" not in same


@pytest.mark.parametrize("name", ["muffnet_x0_5", "menet_108_8x1_g3", TINY])
def test_residual_branches_begin_at_zero(name: str) -> None:
    model = create_model(name, num_classes=3, stem="cifar").eval()
    assert zero_residuals(model) > 0
    x = torch.rand(1, 3, 16, 16)
    features: list[tuple[torch.Tensor, torch.Tensor]] = []
    blocks = [
        each for each in model.modules() if hasattr(each, "zero_init_last") and getattr(each, "pool", None) is None
    ]
    for block in blocks:
        block.register_forward_hook(lambda _, given, found: features.append((given[0], found)))
    model(x)
    assert len(features) == len(blocks) > 0
    for given, found in features:
        assert torch.equal(found, given.relu())


def test_fresh_weights_that_cannot_be_so(tmp_path: Path, tiny_checkpoint: Any) -> None:
    sources = digits_part(40, 10)
    with pytest.raises(InputError, match="plainnet7 has no residual branches"):
        TASK.train(make_tiny_recipe(model="plainnet7", zero_init_residual=True), *sources, tmp_path / "a")
    for key in ("zero_init_residual", "whiten_stem"):
        with pytest.raises(InputError, match=f"{key} is for fresh weights"):
            TASK.train(make_tiny_recipe(**{key: True}), *sources, tmp_path / "b", init=tiny_checkpoint())


def test_batch_normalisation_has_the_recipes_momentum() -> None:
    """After one step the running mean is that share of the batch's."""
    sources = digits_part(64, 10)
    kept = {}
    for momentum in (None, 0.4):
        task = classification.ClassificationSetup(
            make_tiny_recipe(batchnorm_momentum=momentum), *sources, None, World(), prepare
        )
        learner = Learner(task.model, task.recipe, 2, task.objective, World())
        learner.model.train()
        learner.step(next(iter(task.make_loader(World()).epoch(0))), 0)
        kept[momentum] = task.model.state_dict()["stem.conv.norm.running_mean"]
    torch.testing.assert_close(kept[0.4], 4 * kept[None])  # torch's own is 0.1
    assert kept[0.4].abs().max() > 0
