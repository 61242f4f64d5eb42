"""ExecuTorch, delegating everything possible: to XNNPACK, Vulkan or Core ML.

The runtime of ExecuTorch's package has XNNPACK, and Core ML on Apple's systems. A program for a delegate that it does
not have can be parsed here, but not run.
"""

from __future__ import annotations

import itertools
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from compactnets.console import stage
from compactnets.deploy.formats.coreml import own_scratch
from compactnets.deploy.formats.delegates import DELEGATES, Delegate
from compactnets.deploy.formats.registry import Runner, trace_program
from compactnets.deploy.int8.lowering import shuffle_in_int8
from compactnets.deploy.int8.operators import use_pytorch_operators
from compactnets.deploy.int8.quantized import freeze
from compactnets.deploy.operators import OperatorTime, summarize
from compactnets.deploy.quiet import quiet
from compactnets.deploy.rewrite import separate_padding
from compactnets.errors import InputError
from compactnets.failures import scratch_folder
from compactnets.files import refusals

MAGIC = b"ET"  # first two of a FlatBuffer's four identifier bytes
SPLITS = {
    torch.ops.aten.split.Tensor,
    torch.ops.aten.split_with_sizes.default,
    torch.ops.aten.chunk.default,
    torch.ops.aten.unsafe_split.Tensor,
    torch.ops.aten.unsafe_chunk.default,
    torch.ops.aten.tensor_split.sections,
    torch.ops.aten.tensor_split.indices,
}


XNNPACK = DELEGATES["xnnpack"]
FLOAT = 6  # PyTorch's number of float32, as the runtime states types


def write(model: nn.Module, example: Tensor, folder: Path, delegate: Delegate = XNNPACK) -> dict[str, Any]:
    """Write ``model.pte`` for the shape of ``example``, check its input and output, and count what is delegated.

    Raises:
        InputError: a convolution is not delegated, a package of the delegate is missing, or the file has unexpected
            inputs or outputs.
    """
    return _save(separate_padding(model), example, folder, delegate)


def write_float16(model: nn.Module, example: Tensor, folder: Path, delegate: Delegate) -> dict[str, Any]:
    """Write the same with weights and arithmetic of the delegate in float16, and input and output in float32."""
    return _save(separate_padding(model), example, folder, delegate, float16=True)


def write_int8(network: GraphModule, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.pte`` of an int8 network for XNNPACK, as :func:`write` does."""
    freeze(network, unsigned=False, integer_bias=False)
    return _save(shuffle_in_int8(network), example, folder, XNNPACK)


def _save(
    model: nn.Module, example: Tensor, folder: Path, delegate: Delegate, *, float16: bool = False
) -> dict[str, Any]:
    with quiet(), own_scratch():
        partitioner = _partitioner(delegate, float16)
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower

        program = split_by_slices(trace_program(model, example, any_shape=False))
        use_pytorch_operators(program.graph_module.graph)
        program.graph_module.recompile()
        stage(f"lowering to {delegate.title}")
        edge = to_edge_transform_and_lower(program, partitioner=[partitioner])
        info = get_delegation_info(edge.exported_program().graph_module)
        left = {
            name: counts.non_delegated
            for name, counts in info.delegation_by_operator.items()
            if counts.non_delegated and name != "getitem"  # only unpacks a delegate's outputs
        }
        buffer = edge.to_executorch().buffer
    if outside := [name for name in left if "conv" in name or "linear" in name or "addmm" in name]:
        raise InputError(
            f"{delegate.title} does not take {', '.join(outside)} of this network, which ExecuTorch would run in its "
            f"own plain kernels: export to another format"
        )
    (folder / "model.pte").write_bytes(buffer)
    with torch.inference_mode():
        _check_tensors(folder / "model.pte", example.shape, model(example).shape)
    return {
        "delegate": delegate.name,
        "delegated_operators": info.num_delegated_nodes,
        "delegates": info.num_delegated_subgraphs,
        "delegated_share": info.num_delegated_nodes / (info.num_delegated_nodes + sum(left.values())),
        "other_operators": left,
    }


def _partitioner(delegate: Delegate, float16: bool) -> Any:
    """Return what chooses the operators of a delegate.

    Raises:
        InputError: a package is missing, or this release of ExecuTorch does not have the delegate.
    """
    try:
        if delegate.name == "vulkan":
            from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

            return VulkanPartitioner({"force_fp16": True} if float16 else None)
        if delegate.name == "coreml":
            import coremltools
            from executorch.backends.apple.coreml.compiler import CoreMLBackend
            from executorch.backends.apple.coreml.partition import CoreMLPartitioner

            settings = CoreMLBackend.generate_compile_specs(
                minimum_deployment_target=coremltools.target.iOS16,
                compute_precision=coremltools.precision.FLOAT16 if float16 else coremltools.precision.FLOAT32,
            )
            return CoreMLPartitioner(compile_specs=settings)
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        return XnnpackPartitioner()
    except ImportError as error:
        packages = " ".join(["executorch", *delegate.packages])
        raise InputError(
            f"the delegate {delegate.name} cannot be used with the packages installed ({error}): "
            f"python -m pip install --upgrade {packages}"
        ) from None


def _check_tensors(path: Path, taken: torch.Size, given: torch.Size) -> None:
    """Parse a program, and compare its input and output with these shapes, in float32. Its delegates are not needed.

    Raises:
        InputError: the file cannot be parsed, or has other inputs or outputs.
    """
    with quiet():
        from executorch.runtime import Runtime, Verification

        program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        method = program.metadata("forward")
        inputs = [method.input_tensor_meta(index) for index in range(method.num_inputs())]
        outputs = [method.output_tensor_meta(index) for index in range(method.num_outputs())]
    found = [[(tuple(one.sizes()), one.dtype()) for one in tensors] for tensors in (inputs, outputs)]
    expected = [[(tuple(shape), FLOAT)] for shape in (taken, given)]
    if found != expected:
        raise InputError(f"ExecuTorch wrote a program of {found} where {expected} was expected")


def has_backend(name: str) -> bool:
    """Tell whether the runtime that is installed here has a delegate."""
    with quiet():
        from executorch.runtime import Runtime

        return bool(Runtime.get().backend_registry.is_available(name))


def split_by_slices(program: ExportedProgram) -> ExportedProgram:
    """Replace splits and chunks by slices, in place, in float and int8 alike.

    Not every release of ExecuTorch delegates a split to XNNPACK, and none an int8 one. Each split that is not delegated
    cuts the network into two delegates.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target not in SPLITS:
            continue
        source, _, *rest = node.args
        dim = rest[0] if rest else node.kwargs.get("dim", 0)
        ends = list(itertools.accumulate((part.shape[dim] for part in node.meta["val"]), initial=0))
        for user in list(node.users):  # each takes one part
            index = user.args[1]
            with graph.inserting_before(user):
                part = graph.call_function(torch.ops.aten.slice.Tensor, (source, dim, ends[index], ends[index + 1]))
            part.meta = dict(user.meta)
            user.replace_all_uses_with(part)
            graph.erase_node(user)
        graph.erase_node(node)
    program.graph_module.recompile()
    return program


_opened = False  # whether a program was loaded in this process


def open_runner(path: Path, threads: int | None) -> Runner:
    """Load into ExecuTorch's runtime, whose thread pool is shared by the process.

    Raises:
        InputError: a file that cannot be loaded, or a number of threads that differs from earlier programs.
    """
    with refusals(path, "read"), path.open("rb") as file:
        if file.read(8)[4:6] != MAGIC:  # the runtime would abort the process
            raise InputError(f"{path} cannot be loaded by ExecuTorch: it is not one of its programs")
    with quiet():
        from executorch.runtime import Runtime, Verification

        _set_threads(threads)
        try:
            program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
            method = program.load_method("forward")
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} cannot be loaded by ExecuTorch: {str(error).splitlines()[0]}") from None
    if method is None:
        raise InputError(f"{path} cannot be loaded by ExecuTorch: it has no method 'forward'")

    lock = threading.Lock()  # a method has one set of buffers, so calls are serialised

    def run(images: np.ndarray) -> np.ndarray:
        with lock:
            logits: np.ndarray = method.execute([torch.from_numpy(images)])[0].numpy().copy()
        return logits

    return run


def time_operators(path: Path, images: np.ndarray, threads: int | None, calls: int) -> list[OperatorTime]:
    """Time operators with ExecuTorch's event tracer. XNNPACK reports kernels; several may form one operator."""
    with quiet(), scratch_folder() as scratch:
        from executorch.devtools import Inspector
        from executorch.extension.pybindings import portable_lib

        _set_threads(threads)
        module = portable_lib._load_for_executorch(str(path), enable_etdump=True)
        for _ in range(1 + calls):
            module.forward([torch.from_numpy(images)])
        trace = f"{scratch}/trace.etdp"
        module.write_etdump_result_to_file(trace)
        inspector = Inspector(etdump_path=trace)
    events = []
    for block in inspector.event_blocks:
        for event in block.events:
            if block.name == "Execute" and event.is_delegated_op:
                for milliseconds in event.perf_data.raw[1:]:
                    events.append((re.sub(r" #\d+$", "", event.name), 1e3 * milliseconds))
    return summarize(events, calls)


def _set_threads(threads: int | None) -> None:
    """Set the pool's threads before the first program is loaded: loaded programs keep a pointer to their pool."""
    global _opened
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool

    if threads is not None and threads != _threadpool_get_thread_count():
        if _opened:
            raise InputError(
                f"ExecuTorch has one pool of threads in a process, and programs that use it already: it has "
                f"{_threadpool_get_thread_count()} threads, found threads = {threads}"
            )
        _unsafe_reset_threadpool(threads)
    _opened = True
