"""The export formats and their capabilities; a format's code is imported on first use."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.torch_version import TorchVersion

from compactnets.console import stage
from compactnets.deploy.formats.delegates import DELEGATES, Delegate
from compactnets.deploy.operators import OperatorTime
from compactnets.deploy.quiet import quiet
from compactnets.errors import InputError, did_you_mean, missing_extra
from compactnets.telemetry import without_openvino_telemetry

Runner = Callable[[np.ndarray], np.ndarray]  # (N, C, H, W) float32 -> (N, classes) float32
# several arrays, the first axis of each that of images or regions -> the outputs in their order
TensorRunner = Callable[[Sequence[np.ndarray]], list[np.ndarray]]

# pixels for tracing networks of dynamic size, whatever their own size: if a feature map has a single
# pixel, torch.export assumes that for all sizes
TRACED = (224, 256)
EDGES = (
    (1, 1),
    (1, 33),
    (33, 16),
    (225, 31),
    (64, 96),
)  # pixels at which a traced network is compared with the original
TRACING_TOLERANCE = 1e-4  # of the largest output: the operators are the same
FLOAT32: Literal["float32"] = "float32"  # precisions in which ``export`` can write weights
FLOAT16: Literal["float16"] = "float16"
INPUT, OUTPUT = "image", "logits"  # names of every artifact's input and output, if the format has names
STEP = 32  # pixels: a multiple for the halvings and windows of networks


def other_side(side: int) -> int:
    """Return another side of images at which every feature map has another size too, after up to five halvings.

    Three quarters if that is enough (64 and 48 pixels both end as 2), else a larger one.
    """
    smaller = side * 3 // 4
    return smaller if side - smaller >= STEP else side + STEP


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: what ``--format`` takes.
        file: name of the artifact's main file.
        others: its further files.
        runtime: module that runs it.
        packages: packages that write and run it; their versions are recorded.
        extra: the extra of this package that installs them; ``None`` if none is needed.
        any_batch: whether one artifact takes any number of images at once; otherwise it has one batch size.
        any_size: whether one artifact takes images of any size.
        precisions: arithmetic other than float32 that the runtime offers.
        float16: float16 support. ``"stored"``: the weights of convolutions and matrix products are float16 in the file,
            and the runtime chooses its arithmetic (float32 in the check); ``"computed"``: the runtime also computes in
            float16; ``None``: not supported. Input and output are float32 everywhere.
        flushes: whether float16 numbers below the normal ones (6.1e-5) are stored as 0.
        int8: whether it supports int8 networks quantised here.
        int8_output: whether its runtime only runs the last layer in int8 if the logits are int8 too.
        int8_mixed: whether parts of an int8 network may stay in float.
        weight_bits: of the weights of int8 networks. With 8, runtimes for x86 without VNNI overflow: they add two
            products in 16 bits.
        profiles: whether its runtime can time operators.
        lanes: whether its runtime benefits from channels in whole vectors (``rewrite.align_depthwise``).
        metadata: whether the main file can hold our metadata (:meth:`embed`).
        embeds: whether the main file can hold the weights as well.
        needs_torch: ``(release, PyTorch)``: from that release on, the first of :attr:`packages` fails with older
            PyTorch, although its metadata allows it.
        scratch: temporary disk space for writing and checking, as a multiple of the weights.
        runs_on: prefix of ``sys.platform`` on systems that can run it; empty: everywhere.
        delegates: what its runtime can leave the computation to, the default first.
        delegate: the one that artifacts are for, if it is not the default (:meth:`delegating`).
    """

    name: str
    file: str
    others: tuple[str, ...] = ()
    runtime: str = "torch"
    packages: tuple[str, ...] = ()
    extra: str | None = None
    any_batch: bool = True
    any_size: bool = True
    precisions: tuple[str, ...] = ()
    float16: Literal["stored", "computed"] | None = None
    flushes: bool = False
    int8: bool = False
    int8_output: bool = False
    int8_mixed: bool = True
    weight_bits: Literal[7, 8] = 8
    profiles: bool = False
    lanes: bool = False
    metadata: bool = False
    embeds: bool = False
    needs_torch: tuple[str, str] | None = None
    scratch: float = 0.0
    runs_on: str = ""
    delegates: tuple[Delegate, ...] = ()
    delegate: Delegate | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All files of an artifact, the main one first."""
        return (self.file, *self.others)

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run such an artifact; of a delegate that is not the default, whether it is here."""
        if self.delegate is not None:
            return bool(self._module().has_backend(self.delegate.backend))
        return sys.platform.startswith(self.runs_on)

    @property
    def title(self) -> str:
        """Its name in messages, with the delegate if that is not the default."""
        return self.name if self.delegate is None else f"{self.name} ({self.delegate.name})"

    @property
    def where(self) -> str:
        """Where artifacts run that do not run here, for messages."""
        if self.delegate is None:
            return f"on {self.runs_on} only"
        return f"only on {self.delegate.device}: the runtime here has no {self.delegate.backend}"

    def delegating(self, name: str | None) -> Format:
        """Return the same format with artifacts for one of its delegates; ``None`` is the default.

        Raises:
            InputError: it has no delegates, or not this one.
        """
        if name is None:
            return self
        if not self.delegates:
            able = ", ".join(fmt.name for fmt in FORMATS.values() if fmt.delegates)
            raise InputError(f"--delegate is for {able}: the format {self.name} has no delegates")
        found = {delegate.name: delegate for delegate in self.delegates}
        if name not in found:
            raise InputError(f"{self.name} delegates to {', '.join(found)}, found {name!r}{did_you_mean(name, found)}")
        delegate = found[name]
        if delegate is self.delegates[0]:
            return self
        return replace(
            self,
            delegate=delegate,
            float16=delegate.float16,
            packages=(*self.packages, *delegate.packages),
            extra=",".join(extra for extra in (self.extra, delegate.extra) if extra),
        )

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages.

        Raises:
            InputError: one is not installed, or does not run with this PyTorch; the message has the install command.
        """
        found = {}
        for package in self.packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                raise missing_extra(package, self.extra or "", f"the format {self.title}") from None
        if self.needs_torch:
            package, (release, needed) = self.packages[0], self.needs_torch
            if TorchVersion(found[package]) >= release and torch.__version__ < needed:
                raise InputError(
                    f"{package} {found[package]} needs PyTorch {needed} or newer, found {torch.__version__}: "
                    f"python -m pip install '{package}<{release}', or a newer torch"
                )
        return found

    def check_precision(self, precision: str) -> None:
        """Raise unless an artifact of this format can have its weights in ``precision``.

        Raises:
            InputError: the value, and the supported ones.
        """
        if precision == "int8":
            raise InputError("--precision is float32 or float16, found int8: 'compactnets quantize' makes int8")
        if precision not in (FLOAT32, FLOAT16):
            hint = did_you_mean(precision, (FLOAT32, FLOAT16))
            raise InputError(f"--precision is float32 or float16, found {precision!r}{hint}")
        if precision == FLOAT16 and not self.float16:
            able = ", ".join(fmt.name for fmt in FORMATS.values() if fmt.float16)
            raise InputError(f"the format {self.title} has no float16: --precision float16 is for {able}")

    def write(
        self, model: nn.Module, example: Tensor, folder: Path, precision: str = FLOAT32, *, embed_weights: bool = False
    ) -> dict[str, Any]:
        """Write the artifact of a network rewritten for inference.

        Args:
            model: the rewritten network.
            example: ``(N, C, H, W)`` float32, N at least 1; its batch and size are used if the format fixes them.
            folder: where :attr:`files` go; it exists and is empty.
            precision: ``"float32"`` or, if supported, ``"float16"``.
            embed_weights: whether the main file holds the weights as well, if supported.

        Returns:
            further details for the record (opset, delegation, …).

        Raises:
            InputError: the extra is missing, or the network cannot be expressed.
        """
        self.versions()
        write = self._module().write_float16 if precision == FLOAT16 else self._module().write
        options: dict[str, Any] = {"embed_weights": True} if embed_weights else {}
        options |= {} if self.delegate is None else {"delegate": self.delegate}
        details: dict[str, Any] = write(model, example, folder, **options)
        return details

    def write_int8(
        self, network: GraphModule, example: Tensor, folder: Path, *, embed_weights: bool = False
    ) -> dict[str, Any]:
        """Write the artifact of a quantised network, which is not modified.

        Args:
            network: the calibrated network.
            example: as for :meth:`write`.
            folder: as for :meth:`write`.
            embed_weights: as for :meth:`write`.

        Raises:
            InputError: the extra is missing, or the network cannot be expressed.
        """
        self.versions()
        details: dict[str, Any] = self._module().write_int8(
            copy.deepcopy(network), example, folder, **({"embed_weights": True} if embed_weights else {})
        )
        return details

    def check_embedding(self, embed: bool, mcu: str | None) -> None:
        """Raise unless artifacts can hold the weights in the main file, or be counted for a microcontroller, if asked.

        Raises:
            InputError: a format without a source, an unknown core, or a missing compiler.
        """
        if not (embed or mcu):
            return
        if not self.embeds:
            able = ", ".join(fmt.name for fmt in FORMATS.values() if fmt.embeds)
            option = "--mcu" if mcu else "--embed"
            raise InputError(
                f"{option} is for {able}: the format {self.name} has no source that could hold the weights"
            )
        if mcu:
            self._module().check_core(mcu)

    def footprint(self, folder: Path, mcu: str) -> dict[str, Any]:
        """Return what an artifact with embedded weights takes on a microcontroller (``planar.footprint``).

        Raises:
            InputError: its source cannot be compiled.
        """
        found: dict[str, Any] = self._module().footprint(folder / self.file, mcu)
        return found

    def embed(self, folder: Path, metadata: Mapping[str, str]) -> None:
        """Write metadata into the main file of an artifact; does nothing if the format has no metadata.

        Args:
            folder: with the artifact's files.
            metadata: key -> text (``deploy.metadata``).
        """
        self.embed_into(folder / self.file, metadata)

    def embed_into(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write metadata into a main file of any name; does nothing if the format has no metadata."""
        if self.metadata:
            self._module().embed(path, metadata)

    def load_runtime(self) -> None:
        """Import the library that runs the artifacts, so that its memory is not attributed to a network.

        Raises:
            InputError: the extra is missing.
        """
        self.versions()
        with quiet(), without_openvino_telemetry():
            importlib.import_module(self.runtime)

    def open(self, path: Path, threads: int | None = None, precision: str = "float32") -> Runner:
        """Load an artifact into its runtime; nothing but the network in the file is executed.

        Args:
            path: the main file.
            threads: threads to run on; default: the runtime's own choice.
            precision: ``"float32"`` or one of :attr:`precisions`.

        Raises:
            InputError: the extra is missing, or the file cannot be loaded. The runner also raises it for images of an
                unsupported shape.
        """
        self.versions()
        if not self.runs_here:
            raise InputError(f"{path} is an artifact of {self.title}, which runs {self.where}")
        more = {} if precision == "float32" else {"precision": precision}
        runner: Runner = self._module().open_runner(path, threads, **more)

        def run(images: np.ndarray) -> np.ndarray:
            try:
                return runner(images)
            except InputError:
                raise
            except Exception as error:  # every runtime has its own exceptions
                shape = " x ".join(map(str, images.shape))
                takes = (
                    f"{'any batch' if self.any_batch else 'the batch that it was made for'} and "
                    f"{'any size' if self.any_size else 'the size that it was made for'}"
                )
                raise InputError(
                    f"{path} cannot run on images of {shape} (N, C, H, W); an artifact of {self.name} "
                    f"takes {takes}, as far as its network does: {_cause(error)}"
                ) from None

        return run

    def open_tensors(self, path: Path, threads: int | None = None) -> TensorRunner:
        """Load a file with several inputs or outputs, a part of a detector, into its runtime.

        Args:
            path: the main file.
            threads: as for :meth:`open`.

        Raises:
            InputError: the extra is missing, or the file cannot be loaded.
        """
        self.versions()
        runner: TensorRunner = self._module().open_tensors(path, threads)
        return runner

    def read_metadata(self, path: Path) -> dict[str, str]:
        """Return the metadata in a main file that ONNX's runtime reads; empty for other formats."""
        found: dict[str, str] = self._module().read_metadata(path) if self.name == "onnx" else {}
        return found

    def time_operators(
        self, path: Path, images: np.ndarray, threads: int | None, calls: int, precision: str = "float32"
    ) -> list[OperatorTime]:
        """Time each kind of operator with the runtime's profiler, which adds some overhead.

        Args:
            path: the main file.
            images: ``(N, C, H, W)`` float32.
            threads: as for :meth:`open`.
            calls: number of timed calls; a few warm-up calls precede them.
            precision: as for :meth:`open`.

        Raises:
            InputError: the extra is missing, or the runtime has no profiler.
        """
        self.versions()
        if not self.profiles:
            able = ", ".join(fmt.name for fmt in FORMATS.values() if fmt.profiles)
            raise InputError(f"the runtime of {self.name} does not time operators; supported: {able}")
        more = {} if precision == "float32" else {"precision": precision}
        times: list[OperatorTime] = self._module().time_operators(path, images, threads, calls, **more)
        return times

    def _module(self) -> Any:
        return importlib.import_module(f"compactnets.deploy.formats.{self.name}")


FORMATS = {
    fmt.name: fmt
    for fmt in (
        Format(
            "onnx",
            "model.onnx",
            runtime="onnxruntime",
            packages=("onnx", "onnxscript", "onnxruntime"),
            extra="onnx",
            profiles=True,
            lanes=True,
            metadata=True,
            float16="stored",
            int8=True,
            weight_bits=7,
        ),
        Format(
            "openvino",
            "model.xml",
            ("model.bin",),
            runtime="openvino",
            packages=("openvino", "onnx", "onnxscript"),
            extra="openvino",
            profiles=True,
            precisions=("bf16",),
            scratch=1.0,
            float16="stored",
            int8=True,
            weight_bits=7,
        ),
        Format(
            "executorch",
            "model.pte",
            runtime="executorch.extension.pybindings.portable_lib",
            packages=("executorch",),
            extra="executorch",
            profiles=True,
            any_batch=False,
            any_size=False,
            scratch=1.0,
            int8=True,
            int8_output=True,
            delegates=tuple(DELEGATES.values()),
            needs_torch=("1.5", "2.13"),  # tried: 1.5.1 fails on the first tensor with PyTorch 2.11 and 2.12
        ),
        Format(
            "litert",
            "model.tflite",
            runtime="ai_edge_litert.interpreter",
            packages=("litert-torch", "ai-edge-litert", "ai-edge-quantizer"),
            extra="litert",
            any_batch=False,
            any_size=False,
            float16="stored",
            int8=True,
        ),
        Format(
            "ncnn",
            "model.ncnn.param",
            ("model.ncnn.bin",),
            runtime="ncnn",
            packages=("ncnn", "pnnx"),
            extra="ncnn",
            scratch=3.0,
            float16="stored",
            flushes=True,  # pnnx of 20261020
        ),
        Format(
            "coreml",
            "model.mlpackage",
            runtime="coremltools",
            packages=("coremltools",),
            extra="coreml",
            any_batch=False,
            any_size=False,
            scratch=1.0,
            float16="computed",
            runs_on="darwin",
        ),
        Format("torch", "model.pt2", float16="stored"),
        Format(
            "c",
            "model.c",
            ("model.h", "model.bin", "model.json", "example.c", "README.md"),
            runtime="ctypes",
            any_size=False,
            metadata=True,
            embeds=True,
            profiles=True,
            scratch=2.0,
            float16="stored",
            int8=True,
            int8_mixed=False,
        ),
    )
}


def find_format(name: str) -> Format:
    """Return the format of this name.

    Raises:
        InputError: no such format.
    """
    if name not in FORMATS:
        raise InputError(f"no format is called {name!r}: {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    return FORMATS[name]


def trace_program(model: nn.Module, example: Tensor, *, any_shape: bool) -> torch.export.ExportedProgram:
    """Trace a network with ``torch.export``; with ``any_shape``, batch, height and width are dynamic.

    A dynamic program has no conditions on its input except the channels. It is compared with the network at
    :data:`EDGES` to make sure that it takes any shape, from the ``least_side`` on that a network may state.

    Raises:
        InputError: a dynamic program that rejects a size the network takes, or computes something else there.
    """
    stage("tracing")
    if not any_shape:
        return torch.export.export(model, (example,))
    example = torch.zeros(2, example.shape[1], *TRACED)  # a batch of one would be specialised
    shapes = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
    program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    # without an example PyTorch does not check the conditions that tracing noted, which hold for all sizes where no
    # feature map is of one pixel, although the same operators serve for one
    program.example_inputs = None
    _check_edges(program, model, example.shape[1])
    return program


def _check_edges(program: torch.export.ExportedProgram, model: nn.Module, channels: int) -> None:
    traced = program.module()
    generator = torch.Generator().manual_seed(0)
    least = least_side(model)
    for batch, (height, width) in enumerate(EDGES, start=1):
        if min(height, width) < least:
            continue
        images = torch.randn(batch, channels, height, width, generator=generator)
        with torch.inference_mode():
            try:
                expected = model(images)
            except (AssertionError, RuntimeError, ValueError):  # timm's networks assert
                continue  # the network itself does not take this size
            try:
                found = traced(images)
            except Exception as error:  # violated conditions raise several kinds of exceptions
                raise InputError(
                    f"traced, this network does not take {batch} x {height} x {width} pixels: {_cause(error)}"
                ) from None
        if found.shape != expected.shape or bool(
            (found - expected).abs().max() > TRACING_TOLERANCE * expected.abs().max()
        ):
            raise InputError(
                f"traced on {TRACED[0]} x {TRACED[1]} pixels, this network computes something else on {height} x "
                f"{width}: its input size is not dynamic; export to a format that fixes the size"
            )


def least_side(model: nn.Module) -> int:
    """Return the least side of an image that an artifact of any size takes, which a network or its graph may state."""
    return int(getattr(model, "least_side", None) or getattr(model, "meta", {}).get("least_side", 1))


def _cause(error: Exception) -> str:
    """Return the first informative line of an error."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (said or [type(error).__name__])[0]
