"""Compiling a module with the planar engine and comparing every number that it gives with PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compactnets.deploy import deploy_form
from compactnets.deploy.planar.build import Library, find_compiler, load
from compactnets.deploy.planar.emit import Program, emit, pack, plan
from compactnets.deploy.planar.trace import trace
from compactnets.errors import InputError


def needs_compiler() -> None:
    try:
        find_compiler()
    except InputError as error:
        pytest.skip(str(error))


def compile_module(model: nn.Module, example: Tensor, flags: Sequence[str] = ()) -> Library:
    needs_compiler()
    graph, weights, _ = trace(deploy_form(model), example[:1])
    program = Program(graph=graph)
    shape = (graph.channels, graph.height, graph.width)
    return load(emit(program), program.name, shape, graph.outputs, pack(plan(graph), weights).tobytes(), flags)


def flat_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What a module gives for images, output by output, one row for an image."""
    with torch.inference_mode():
        outputs = model(images)
    return [each.flatten(1) for each in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]


def check_module(model: nn.Module, images: Tensor, flags: Sequence[str] = (), tolerance: float = 1e-5) -> Library:
    """Every output is within ``tolerance`` of its own largest number; ``model.names`` are the names of the outputs."""
    model = model.eval()
    library = compile_module(model, images, flags)
    found = torch.from_numpy(library.run(images.numpy()))
    assert np.array_equal(found.numpy(), library.run(images.numpy())), "two runs differ"
    expected = flat_outputs(model, images)
    assert found.shape[1] == sum(each.shape[1] for each in expected)
    names = getattr(model, "names", [f"output {index}" for index in range(len(expected))])
    for name, part, right in zip(names, found.split([e.shape[1] for e in expected], dim=1), expected, strict=True):
        difference = float((part - right).abs().max()) / max(float(right.abs().max()), 1e-6)
        assert difference <= tolerance, f"{name} differs by {difference:.2g}"
    return library
