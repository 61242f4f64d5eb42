"""LiteRT (formerly TensorFlow Lite), whose runtime computes in XNNPACK on a CPU. An artifact takes NHWC images."""

from __future__ import annotations

import io
import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.console import stage
from compactnets.deploy.formats.registry import INPUT, OUTPUT, Runner
from compactnets.deploy.int8.operators import use_pytorch_operators
from compactnets.deploy.int8.quantized import freeze
from compactnets.deploy.quiet import quiet
from compactnets.errors import InputError
from compactnets.files import refusals

MAGIC = b"TFL3"  # the FlatBuffer's identifier, after four bytes
DETAILS = {"layout": "NHWC"}  # of the input: what cameras and LiteRT's own image libraries give


def write(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.tflite`` for the shape of ``example``, whose input is (N, H, W, C).

    Raises:
        InputError: an operator that LiteRT does not have.
    """
    (folder / "model.tflite").write_bytes(_convert_float(model, example))
    return dict(DETAILS)


def write_float16(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write the same with the weights of convolutions and matrix products in float16.

    Raises:
        InputError: an operator that LiteRT does not have.
    """
    converted = _convert_float(model, example)
    stage("rounding the weights")
    with _silence():
        from ai_edge_quantizer import qtyping
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.quantizer import Quantizer

        quantizer = Quantizer(bytearray(converted))
        half = qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        operators = qtyping.TFLOperationName
        for kind in (operators.CONV_2D, operators.DEPTHWISE_CONV_2D, operators.FULLY_CONNECTED):
            quantizer.update_quantization_recipe(".*", kind, half, AlgorithmName.FLOAT_CASTING)
        rounded = quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model
    (folder / "model.tflite").write_bytes(bytes(rounded))
    return dict(DETAILS)


def write_int8(network: GraphModule, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.tflite`` of an int8 network. Its input is int8 too, (N, H, W, C), with a scale and a zero point.

    Raises:
        InputError: an operator that LiteRT does not have.
    """
    freeze(network, unsigned=False, integer_bias=False)
    with _silence():
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
        from litert_torch.quantize.quant_config import QuantConfig

        # only tells the converter that activations have fixed ranges; the network is quantised already
        fixed = QuantConfig(PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True)))
        images = example.permute(0, 2, 3, 1).contiguous()
        program = torch.export.export(_ChannelsLast(network).eval(), (), {INPUT: images})
        use_pytorch_operators(program.graph_module.graph)
        module = program.module()
        assert isinstance(module, GraphModule)
        _round_weights_in_graph(module)
    (folder / "model.tflite").write_bytes(_convert(module, images, quant_config=fixed))
    return {**DETAILS, "input_type": "int8"}


def _round_weights_in_graph(module: GraphModule) -> None:
    """Give a quantised network float weights that it rounds itself, in place: the converter takes no integers."""
    theirs = torch.ops.quantized_decomposed
    for node in list(module.graph.nodes):
        if node.target is not theirs.dequantize_per_channel.default:
            continue
        integers, scales, *rest = node.args
        values, factors = (operator.attrgetter(str(each.target))(module) for each in (integers, scales))
        name = f"{node.name}_float"
        module.register_buffer(name, values.float() * factors.reshape(-1, *[1] * (values.ndim - 1)))
        with module.graph.inserting_before(node):
            weight = module.graph.get_attr(name)
            node.args = (
                module.graph.call_function(theirs.quantize_per_channel.default, (weight, scales, *rest)),
                *node.args[1:],
            )
    module.recompile()


def _convert(model: nn.Module, images: Tensor, **options: Any) -> bytes:
    """Convert a network with the input ``image``, (N, H, W, C)."""
    with _silence():
        import litert_torch

        stage("converting")
        converted: bytes = litert_torch.convert(model, sample_kwargs={INPUT: images}, **options).model_content()
    return converted


def _convert_float(model: nn.Module, example: Tensor) -> bytes:
    return _convert(_ChannelsLast(model).eval(), example.permute(0, 2, 3, 1).contiguous())


class _ChannelsLast(nn.Module):
    """The network with (N, H, W, C) images; its outputs have names."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {OUTPUT: self.network(image.permute(0, 3, 1, 2))}


def open_runner(path: Path, threads: int | None) -> Runner:
    """Load into LiteRT's interpreter on the CPU.

    Raises:
        InputError: a file that cannot be loaded.
    """
    with refusals(path, "read"), path.open("rb") as file:
        if file.read(8)[4:] != MAGIC:
            raise InputError(f"{path} cannot be loaded by LiteRT: it is not one of its models")
    with _silence():
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(str(path), num_threads=threads)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} cannot be loaded by LiteRT: {str(error).splitlines()[0]}") from None
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    lock = threading.Lock()  # an interpreter has one set of buffers, so calls are serialised

    def run(images: np.ndarray) -> np.ndarray:
        given = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        if source["dtype"] == np.int8:
            scale, zero = source["quantization"]
            given = np.clip(np.rint(given / np.float32(scale)) + zero, -128, 127).astype(np.int8)
        with lock:
            interpreter.set_tensor(source["index"], given)
            interpreter.invoke()
            logits: np.ndarray = interpreter.get_tensor(target["index"])  # a copy
        if target["dtype"] == np.int8:
            scale, zero = target["quantization"]
            logits = (logits.astype(np.float32) - zero) * np.float32(scale)
        return logits

    return run


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress what the converter and the runtime print, on standard output too."""
    with quiet(), redirect_stdout(io.StringIO()):
        yield
