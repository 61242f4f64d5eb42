"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.console import stage
from compactnets.deploy.formats.registry import (
    INPUT,
    OUTPUT,
    Runner,
    TensorRunner,
    trace_program,
)
from compactnets.deploy.int8.lowering import leave_float_outputs
from compactnets.deploy.int8.operators import onnx_translations
from compactnets.deploy.int8.quantized import freeze
from compactnets.deploy.operators import OperatorTime, convolution, summarize
from compactnets.errors import InputError
from compactnets.failures import scratch_folder

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # whose weights are stored in float16
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
OPSET = 18  # the oldest that torch's exporter writes without converting, so that older runtimes on devices read it


def write(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx``: batch, height and width are open."""
    save(model, example, folder / "model.onnx")
    return {"opset": OPSET}


def write_float16(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx`` with its weights in float16, as :func:`store_float16` does."""
    save(model, example, folder / "model.onnx")
    return {"opset": OPSET, **store_float16(folder / "model.onnx")}


def write_int8(network: GraphModule, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx`` with pairs of QuantizeLinear and DequantizeLinear, which ONNX Runtime fuses to int8."""
    freeze(leave_float_outputs(network), unsigned=True, integer_bias=True)
    save(network, example, folder / "model.onnx")
    return {"opset": OPSET}


def save(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write one file, with the weights inside; int8 networks as well."""
    program = trace_program(model, example, any_shape=True)
    save_program(program, path, [INPUT], [OUTPUT], onnx_translations())


def save_program(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: list[str],
    outputs: list[str],
    translations: dict[Callable[..., Any], Callable[..., Any]] | None = None,
) -> None:
    """Write a traced network as one file, with the weights inside.

    Args:
        program: the network.
        path: of the file.
        inputs: names of its inputs.
        outputs: names of its outputs.
        translations: how to write operators that torch's exporter does not know, or writes badly.
    """
    stage("converting to ONNX")
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                program,
                (),
                path,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
                custom_translation_table=translations,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    _drop_notes(path)


def _drop_notes(path: Path) -> None:
    """Drop the exporter's notes on each operation, such as its source location: half of an int8 file."""
    import onnx

    model = onnx.load(path)
    del model.graph.value_info[:]
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input):
        del part.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
    onnx.save(model, path)


def store_float16(path: Path) -> dict[str, int]:
    """Store the weights of a file in float16, each with a Cast to float32 that runtimes apply once on loading.

    CPUs without float16 arithmetic stay as fast as before, and no intermediate value can overflow. The conversions of
    onnxconverter-common and ONNX Runtime make every operator float16, and ONNX Runtime then adds casts where it
    computes in float32. Biases and normalisations stay float32: their small variances would be lost.

    Returns:
        the number of tensors that are now float16, and of weights that stay float32 because they exceed its range.
    """
    import onnx

    stage("storing weights in float16")
    model = onnx.load(path)
    graph = model.graph
    wanted, casts, beyond = _product_weights(graph), [], 0
    for tensor in graph.initializer:
        if tensor.name not in wanted:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2:
            continue
        if np.abs(values).max(initial=0) > LARGEST_FLOAT16:
            beyond += 1
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    onnx.save(model, path)
    return {"float16_weights": len(casts), **({"weights_beyond_float16": beyond} if beyond else {})}


def _product_weights(graph: Any) -> set[str]:
    """Return the initializers that convolutions and matrix products multiply by, directly or via other nodes."""
    constant = {tensor.name for tensor in graph.initializer}
    sources = {name: {name} for name in constant}
    wanted: set[str] = set()
    for node in graph.node:  # in the order of computation
        inputs = [name for name in node.input if name]
        if all(name in sources for name in inputs):
            made = set().union(*(sources[name] for name in inputs))
            sources.update(dict.fromkeys(node.output, made))
        elif node.op_type in PRODUCTS:
            wanted |= set().union(*(sources.get(name, set()) for name in inputs[:2]))
    return wanted


def embed(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata of a file (``metadata_props``), key by key in the order given."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)


def open_runner(path: Path, threads: int | None) -> Runner:
    """Load into ONNX Runtime on the CPU."""
    session = open_session(path, threads)
    name = session.get_inputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(None, {name: images})[0]
        return logits

    return run


def open_tensors(path: Path, threads: int | None) -> TensorRunner:
    """Load a file with several inputs or outputs into ONNX Runtime on the CPU."""
    session = open_session(path, threads)
    names = [one.name for one in session.get_inputs()]

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = session.run(None, dict(zip(names, arrays, strict=True)))
        return found

    return run


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file."""
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def time_operators(path: Path, images: np.ndarray, threads: int | None, calls: int) -> list[OperatorTime]:
    """Time operators with ONNX Runtime's profiler, in the runtime's optimised graph."""
    import onnx

    warm_up = 5
    with scratch_folder() as scratch:
        changed = f"{scratch}/changed.onnx"
        session = open_session(
            path,
            threads,
            enable_profiling=True,
            profile_file_prefix=f"{scratch}/profile",
            optimized_model_filepath=changed,
        )
        name = session.get_inputs()[0].name
        for _ in range(warm_up + calls):
            session.run(None, {name: images})
        seen = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        kinds = _kinds(onnx.load(changed))
    events = [event for event in seen if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    events = events[len(events) // (warm_up + calls) * warm_up :]
    return summarize(
        (
            (kinds.get(event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]), event["dur"])
            for event in events
        ),
        calls,
    )


def _kinds(model: Any) -> dict[str, str]:
    """Return the kind of every convolution by its name."""
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    kinds = {}
    for node in model.graph.node:
        if "Conv" not in node.op_type:
            continue
        weight = shapes[node.input[3 if node.op_type == "QLinearConv" else 1]]
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        int8 = " int8" if node.op_type == "QLinearConv" else ""
        kinds[node.name] = convolution(weight[2:], groups, weight[1]) + int8
    return kinds


def open_session(path: Path, threads: int | None = None, **settings: Any) -> Any:
    """Load a file into ONNX Runtime, on the CPU.

    Args:
        path: of the file.
        threads: threads to run on; default: the runtime's own choice.
        settings: further attributes of its ``SessionOptions``.

    Raises:
        InputError: a file that it cannot load.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # for a program that imported it before compactnets, and for Windows
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    for key, value in settings.items():
        setattr(options, key, value)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a dozen exception types without a common base
        raise InputError(f"{path} cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}") from None
