"""The time of each kind of operator, as the runtimes count it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compactnets.deploy import FORMATS, deploy_form
from compactnets.deploy.operators import (
    OperatorTime,
    convolution,
    summarize,
    time_eager,
)
from compactnets.errors import InputError

from .conftest import Make, needs
from .helpers import SIZE, tiny_network

IMAGES = np.zeros((1, 3, SIZE, SIZE), dtype=np.float32)


def convolutions(model: nn.Module) -> Counter[str]:
    """How many convolutions of each kind a network has."""
    return Counter(
        convolution(layer.kernel_size, layer.groups, layer.in_channels // layer.groups)
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
    )


def of_convolutions(times: list[OperatorTime]) -> dict[str, int]:
    return {time.kind: time.count for time in times if time.kind.endswith("convolution")}


def test_kinds() -> None:
    assert convolution((3, 3), 1, 8) == "3x3 convolution"
    assert convolution((1, 1), 3, 8) == "1x1 grouped convolution"
    assert convolution((5, 3), 8, 1) == "5x3 depthwise convolution"


def test_sums_are_of_one_call() -> None:
    events = [("a", 1000.0), ("b", 3000.0), ("a", 1000.0)] * 4
    assert summarize(events, 4) == [OperatorTime("b", 3.0, 1), OperatorTime("a", 2.0, 2)]
    assert summarize([], 4) == []


def test_eager() -> None:
    model = tiny_network()
    times = time_eager(model, torch.from_numpy(IMAGES), 3)
    assert of_convolutions(times) == convolutions(model)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert {time.kind: time.count for time in times}["batch_norm"] == norms
    assert all(time.milliseconds > 0 for time in times)
    assert [time.milliseconds for time in times] == sorted((time.milliseconds for time in times), reverse=True)


@pytest.mark.parametrize("name", ["onnx", "openvino", "c"])
def test_runtimes(artifact: Make, name: str) -> None:
    times = FORMATS[name].time_operators(artifact(name) / FORMATS[name].file, IMAGES, 1, 3)
    expected = convolutions(deploy_form(tiny_network()))
    assert of_convolutions(times) == expected
    assert all(time.milliseconds > 0 for time in times if time.kind in expected)


@pytest.mark.slow  # the export takes a minute
def test_executorch(artifact: Make) -> None:
    """XNNPACK computes dense pointwise convolutions by its fully connected kernel."""
    times = FORMATS["executorch"].time_operators(artifact("executorch") / "model.pte", IMAGES, None, 3)
    computing = sum(time.count for time in times if time.kind.startswith(("Convolution", "Fully Connected")))
    layers = [layer for layer in deploy_form(tiny_network()).modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert computing == len(layers)
    assert sum(time.milliseconds for time in times) > 0


def test_what_has_no_profiler_says_so(tmp_path: Path) -> None:
    needs("ncnn")
    with pytest.raises(InputError, match="ncnn does not time operators; .*onnx, openvino, executorch"):
        FORMATS["ncnn"].time_operators(tmp_path, IMAGES, 1, 3)
