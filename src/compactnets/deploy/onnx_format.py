"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.deploy.formats import INPUT, OUTPUT, Runner, trace_program
from compactnets.deploy.quantization.form import freeze
from compactnets.errors import InputError

OPSET = 18  # the oldest that torch's exporter writes without converting, so that older runtimes on devices read it


def write(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx``: batch, height and width are open."""
    save(model, example, folder / "model.onnx")
    return {"opset": OPSET}


def write_int8(network: GraphModule, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx`` with pairs of QuantizeLinear and DequantizeLinear, which ONNX Runtime makes int8."""
    freeze(network, unsigned=True, integer_bias=True)
    save(network, example, folder / "model.onnx")
    return {"opset": OPSET}


def save(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write one file, with the weights inside."""
    program = trace_program(model, example, any_shape=True)
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                program,
                (),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    _drop_notes(path)


def _drop_notes(path: Path) -> None:
    """Drop what the exporter notes of each operation, such as where in the source it came from: half an int8 file."""
    import onnx

    model = onnx.load(path)
    del model.graph.value_info[:]
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input):
        del part.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
    onnx.save(model, path)


def open_runner(path: Path, threads: int | None) -> Runner:
    """Load into ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
    except Exception as error:  # the runtime has a dozen exceptions of its own, without a common base
        raise InputError(f"{path} cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}") from None

    def run(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(None, {name: images})[0]
        return logits

    return run
