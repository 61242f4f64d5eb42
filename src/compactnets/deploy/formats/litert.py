"""LiteRT (formerly TensorFlow Lite), whose runtime computes in XNNPACK on a CPU. An artifact takes NHWC images."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from compactnets.console import stage
from compactnets.deploy.formats.registry import INPUT, OUTPUT, Runner
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
    (folder / "model.tflite").write_bytes(_convert(model, example))
    return dict(DETAILS)


def write_float16(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write the same with the weights of convolutions and matrix products in float16.

    Raises:
        InputError: an operator that LiteRT does not have.
    """
    converted = _convert(model, example)
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
        for operator in (operators.CONV_2D, operators.DEPTHWISE_CONV_2D, operators.FULLY_CONNECTED):
            quantizer.update_quantization_recipe(".*", operator, half, AlgorithmName.FLOAT_CASTING)
        rounded = quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model
    (folder / "model.tflite").write_bytes(bytes(rounded))
    return dict(DETAILS)


def _convert(model: nn.Module, example: Tensor) -> bytes:
    with _silence():
        import litert_torch

        stage("converting")
        images = example.permute(0, 2, 3, 1).contiguous()
        converted: bytes = litert_torch.convert(
            _ChannelsLast(model).eval(), sample_kwargs={INPUT: images}
        ).model_content()
    return converted


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
        with lock:
            interpreter.set_tensor(source["index"], np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
            interpreter.invoke()
            logits: np.ndarray = interpreter.get_tensor(target["index"])  # a copy
        return logits

    return run


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress what the converter and the runtime print, on standard output too."""
    with quiet(), redirect_stdout(io.StringIO()):
        yield
