"""PyTorch's own exported program (``.pt2``), run by PyTorch.

``torch.export.load`` trusts its file: it falls back on unpickling anything, resolves operator names as paths from
``torch``, and evaluates size expressions with Python. A file is therefore inspected first, and anything that is not
plainly a network is rejected.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compactnets.console import stage
from compactnets.deploy.formats.registry import Runner, trace_program
from compactnets.deploy.rewrite import store_float16
from compactnets.environment import set_variables
from compactnets.errors import InputError

OPERATORS = re.compile(r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_\w+|_operator\.(?:getitem|add|sub|mul|floordiv|pow)")
NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")
FUNCTIONS = {"Symbol", "Integer", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv", "PythonMod", "CleanDiv"}
PLAIN = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.keyword, ast.Constant, ast.UnaryOp, ast.USub)
MEMBERS = re.compile(
    r"(?:models/[\w.-]+\.json|archive_(?:format|version)|version|byteorder|\.format_version|\.data/\w+|"
    r"data/(?:weights|constants|sample_inputs)/[\w.-]+)"
)


def write(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.pt2``: batch, height and width are open."""
    return _write(model, example, folder)


def write_float16(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.pt2`` with its weights in float16, which are cast to float32 in every call."""
    return _write(store_float16(model), example, folder)


def _write(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    archive = io.BytesIO()  # when torch itself writes a file, a full disk aborts the process
    program = trace_program(model, example, any_shape=True)
    _drop_notes(program)
    stage("saving")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, archive)
    (folder / "model.pt2").write_bytes(archive.getbuffer())
    return {}


def _drop_notes(program: torch.export.ExportedProgram) -> None:
    """Drop the tracing metadata of each operation: its source location and example value."""
    for node in list(program.graph.nodes):
        if node.target == torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
            continue
        for note in NOTES:
            node.meta.pop(note, None)


def open_runner(path: Path, threads: int | None) -> Runner:
    """Load the program, after :func:`refuse_code`."""
    refuse_code(path)
    # torch.load then rejects everything but tensors, even if called without weights_only
    with set_variables({"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.load(path).module()
        except Exception as error:  # the reader has no exception type of its own
            raise InputError(f"{path} cannot be loaded by torch.export: {str(error).splitlines()[0]}") from None
    if threads:
        torch.set_num_threads(threads)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = program(torch.from_numpy(images)).numpy()
        return logits

    return run


def refuse_code(path: Path) -> None:
    """Reject an archive with anything but weights and a graph of PyTorch's own tensor operators.

    Raises:
        InputError: what was found.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
            graphs = [archive.read(name) for name in archive.namelist() if name.endswith(".json")]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not an exported program of PyTorch: {error}") from None
    if len({name.casefold() for name in names}) < len(names):  # which of the two is read depends on the reader
        raise InputError(f"{path} holds two members of one name: it is not loaded")
    for name in names:
        if not MEMBERS.fullmatch(name):
            raise InputError(f"{path} holds {name!r}, which an exported network does not: it is not loaded")
    for graph in graphs:
        try:
            found = list(_problems(json.loads(graph)))
        except (ValueError, RecursionError):
            raise InputError(f"{path} is not an exported program of PyTorch: its graph is not JSON") from None
        if found:
            raise InputError(f"{path} holds {found[0]}, which an exported network does not: it is not loaded")


def _problems(value: Any) -> Iterator[str]:
    """Yield everything that could run code in a serialised graph: foreign operators, expressions, pickles."""
    if isinstance(value, list):
        for item in value:
            yield from _problems(item)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "target" and isinstance(item, str) and "inputs" in value and not OPERATORS.fullmatch(item):
            yield f"the operator {item!r}"
        elif key == "expr_str" and not _is_plain(item):
            yield f"the expression {item!r}"
        elif key == "use_pickle" and item:
            yield "pickled objects"
        else:
            yield from _problems(item)


def _is_plain(expression: Any) -> bool:
    """Whether a size expression only has functions that torch writes, integers and names."""
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, TypeError, ValueError, RecursionError):
        return False
    called = {id(node.func): node.func for node in nodes if isinstance(node, ast.Call)}
    return (
        all(isinstance(node, PLAIN) for node in nodes)
        and all(isinstance(function, ast.Name) and function.id in FUNCTIONS for function in called.values())
        and all(isinstance(node.value, int) or _is_name(node.value) for node in nodes if isinstance(node, ast.Constant))
        and all(_is_name(node.id) for node in nodes if isinstance(node, ast.Name) and id(node) not in called)
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[su]\d+", value) is not None
