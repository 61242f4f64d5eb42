"""OpenVINO's intermediate representation, made from ONNX.

OpenVINO sends telemetry about its import and its converter unless the user has opted out. It is therefore imported
without the telemetry package (:mod:`compactnets.telemetry`), and networks are read from ONNX.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.console import stage
from compactnets.deploy.formats import onnx as onnx_format
from compactnets.deploy.formats.registry import Runner, TensorRunner
from compactnets.deploy.int8.lowering import separate_groups
from compactnets.deploy.int8.quantized import freeze
from compactnets.deploy.operators import OperatorTime, convolution, summarize
from compactnets.errors import InputError
from compactnets.failures import scratch_folder
from compactnets.telemetry import without_openvino_telemetry

# OpenVINO 2026.4 computes a grouped int8 convolution with AMX wrongly where a group has more inputs than this and not a
# multiple of it (54 outputs of 3 groups of 72 inputs, for one: off by the whole range); one group at a time is right
WIDEST_GROUP = 64


def write(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.xml`` and ``model.bin`` in float32: batch, height and width are open."""
    return _save(model, example, folder)


def write_float16(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.xml`` and ``model.bin`` with the weights in float16, as OpenVINO's own tools do."""
    return _save(model, example, folder, compressed=True)


def write_int8(network: GraphModule, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.xml`` and ``model.bin`` with int8 weights and a FakeQuantize for every tensor."""
    freeze(network, unsigned=True, integer_bias=False)
    separated = separate_groups(network, WIDEST_GROUP)
    return {**_save(network, example, folder, simplify=True), "convolutions_by_group": separated}


def _save(
    model: nn.Module, example: Tensor, folder: Path, *, simplify: bool = False, compressed: bool = False
) -> dict[str, Any]:
    openvino = _openvino()
    from openvino._offline_transformations import apply_moc_transformations

    with scratch_folder() as scratch:
        path = scratch / "model.onnx"
        onnx_format.save(model, example, path)
        stage("converting to OpenVINO")
        network = _core().read_model(path)
        if simplify:  # otherwise an ONNX dequantisation is a dozen operations, and the file three times as large
            apply_moc_transformations(network, cf=False)
        openvino.save_model(network, folder / "model.xml", compress_to_fp16=compressed)
    return {"opset": onnx_format.OPSET}


def convert(source: Path, path: Path) -> None:
    """Write an ONNX file of any inputs and outputs as ``path`` (``.xml``) and its ``.bin``; float16 stays float16."""
    stage("converting to OpenVINO")
    _openvino().save_model(_core().read_model(source), path, compress_to_fp16=False)


def open_tensors(path: Path, threads: int | None) -> TensorRunner:
    """Compile a file with several inputs or outputs for the CPU, whatever is open in their shapes."""
    compiled = _compile(path, None, threads, "f32")
    lock, idle = threading.Lock(), list[Any]()

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with lock:
            request = idle.pop() if idle else compiled.create_infer_request()
        try:
            request.infer(list(arrays), share_inputs=True)
            return [request.get_output_tensor(index).data.copy() for index in range(len(compiled.outputs))]
        finally:
            with lock:
                idle.append(request)

    return run


def open_runner(path: Path, threads: int | None, precision: str = "f32") -> Runner:
    """Compile for the CPU, once per input shape: dynamic shapes would run slower."""
    _read(path)
    lock = threading.Lock()
    compiled: dict[tuple[int, ...], Any] = {}
    idle: dict[tuple[int, ...], list[Any]] = {}  # a request serves one call at a time, so each thread gets its own

    def run(images: np.ndarray) -> np.ndarray:
        shape = images.shape
        with lock:
            if shape not in compiled:
                compiled[shape], idle[shape] = _compile(path, shape, threads, precision), []
            request = idle[shape].pop() if idle[shape] else compiled[shape].create_infer_request()
        try:
            request.infer([images], share_inputs=True)
            logits: np.ndarray = request.get_output_tensor(0).data.copy()
        finally:
            with lock:
                idle[shape].append(request)
        return logits

    return run


def time_operators(
    path: Path, images: np.ndarray, threads: int | None, calls: int, precision: str = "f32"
) -> list[OperatorTime]:
    """Time operators with OpenVINO's own counters."""
    kinds = {}
    for node in _read(path).get_ops():
        if node.get_type_name() == "Convolution":
            _, inputs, *kernel = node.input(1).get_partial_shape().to_shape()
            kinds[node.get_friendly_name()] = convolution(kernel, 1, inputs)
        elif node.get_type_name() == "GroupConvolution":
            groups, _, inputs, *kernel = node.input(1).get_partial_shape().to_shape()
            kinds[node.get_friendly_name()] = convolution(kernel, groups, inputs)
    request = _compile(path, images.shape, threads, precision, PERF_COUNT=True).create_infer_request()
    for _ in range(5):
        request.infer([images])
    events = []
    for _ in range(calls):
        request.infer([images])
        for operator in request.profiling_info:
            # whole microseconds: an operator below half of one is reported as not run
            kind = kinds.get(operator.node_name)
            if kind or str(operator.status).endswith("EXECUTED"):
                kind = kind or operator.node_type
                events.append((kind, operator.real_time.total_seconds() * 1e6))
    return summarize(events, calls)


@functools.cache
def _core() -> Any:
    """Return the process's OpenVINO core: freeing it before its compiled networks corrupts memory."""
    return _openvino().Core()


def _openvino() -> Any:
    with without_openvino_telemetry():
        import openvino
    return openvino


def _read(path: Path) -> Any:
    try:
        return _core().read_model(path)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be loaded by OpenVINO: {_last_line(error)}") from None


def _compile(path: Path, shape: tuple[int, ...] | None, threads: int | None, precision: str, **more: Any) -> Any:
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", **more}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    network = _read(path)
    if shape is not None:
        network.reshape(list(shape))
    return _core().compile_model(network, "CPU", settings)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
