"""Small networks, one with every kind of layer that the deploy form changes, and pictures for them."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.errors import InputError
from compactnets.models.menet import MEModule
from compactnets.models.muffnet_blocks import MuffStage
from compactnets.models.registry import create_model, default_stem
from compactnets.models.sharing import make_sharing
from compactnets.models.staged import StagedNet, make_stem
from compactnets.nn import ConvNormAct
from compactnets.tasks.opening import open_to_write

SIZE, CLASSES = 24, 5


def check_delegated(details: dict[str, Any]) -> None:
    """Hold what an export to ExecuTorch left out of XNNPACK against what this release of it can take.

    No convolution is left out of any. Pooling and views are taken since 1.5, with which the network is one delegate.
    """
    left = details["other_operators"]
    assert not [name for name in left if "conv" in name or "linear" in name or "addmm" in name]
    if TorchVersion(version("executorch")) >= "1.5":
        assert left == {}
        assert details["delegates"] == 1
    else:
        assert {name.removeprefix("aten_").partition("_default")[0] for name in left} <= {"avg_pool2d", "view_copy"}


def randomize(model: nn.Module) -> nn.Module:
    """Give normalisations the statistics and scales of a trained network, so that folding them changes something."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return model


def small_form(name: str) -> tuple[nn.Module, int]:
    """A registered network with 7 classes, its normalisations set, and the side of small images for it.

    It is the same at every call: with other random weights a deep network may make more of a rounding. The test is
    skipped where the library that builds the network is not installed.
    """
    stem = default_stem(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = create_model(name, stem=stem, num_classes=7)
        except InputError as error:
            pytest.skip(str(error))
    return randomize(model).eval(), 32 if stem == "cifar" else 64


def tiny_network(in_chans: int = 3) -> nn.Module:
    """One downsampling and one standard ME module, and a MuffNet stage: float32, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stages = nn.Sequential(
            MEModule(12, 36, 5, 3, downsample=True, stride=2), MEModule(36, 36, 5, 3), ConvNormAct(36, 10)
        )
        sharing = make_sharing("average", 3, 4)
        model = StagedNet(
            make_stem(in_chans, 12, "cifar"),
            [stages, MuffStage(10, sharing)],
            None,
            levels=[(12, 1), (10, 2), (sharing.out_channels, 4)],
            num_features=sharing.out_channels,
            num_classes=CLASSES,
            in_chans=in_chans,
            drop_rate=0.2,
            form={"stem": "cifar"},
        )
        return randomize(model).eval()


class Small(nn.Module):
    """Two convolutions and a classifier: (N, 3, H, W) -> (N, 5). It is written in a second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()
        self.second = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.second(self.act(self.first(x)))))


def write_pictures(folder: Path) -> Path:
    """Write five classes of eight images, named as :func:`tiny_record` names them; returns ``folder``."""
    generator = np.random.default_rng(0)
    for name in ("n0", "n1", "n2", "n3", "n4"):
        (folder / name).mkdir(parents=True)
        for index in range(8):
            pixels = generator.integers(0, 256, (7, 7, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((30, 30)).save(folder / name / f"{index}.png")
    return folder


def tiny_record(in_chans: int = 3) -> CheckpointRecord:
    return CheckpointRecord(
        model="tiny",
        arguments={},
        class_names=[f"n{index}" for index in range(CLASSES)],
        class_labels=["cat", "dog", "bird", "fish", "ant"],
        preprocess={
            "size": SIZE,
            "resize": 28,
            "interpolation": "bilinear",
            "antialias": True,
            "mean": [0.4] * in_chans,
            "std": [0.2] * in_chans,
        },
        source="a test",
        license="none",
    )


def opened(what: str, arguments: dict[str, Any] | None = None) -> tuple[nn.Module, CheckpointRecord]:
    """What ``export`` and ``benchmark`` take: the network of a checkpoint, or one by its name."""
    return open_to_write(what, CheckpointRecord, "export", arguments)


def check_rounding(found: np.ndarray, model: nn.Module, images: Tensor) -> None:
    """Hold what a runtime gives, (N, classes), against double precision: little more off than PyTorch's float32 is.

    igcv3's linear layers amplify rounding a thousandfold with random weights, in PyTorch as much as elsewhere.
    """
    with torch.inference_mode():
        rounded = model(images).numpy()
        exact = copy.deepcopy(model).double()(images.double()).numpy()
    assert found.shape == exact.shape
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max() + 10 * np.abs(rounded - exact).max()
