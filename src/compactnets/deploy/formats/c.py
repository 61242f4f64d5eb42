"""C: one file of source, made by the planar engine (``deploy/planar``). An artifact takes images of one size.

What a compiler makes of a file runs with all rights of whoever runs it. So the source that lies in an artifact is never
compiled: ``model.json`` has the network as operations, which are looked through, and the source is generated from that
again; one that differs from it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from compactnets.console import stage
from compactnets.deploy.formats.operators import OperatorTime, summarize
from compactnets.deploy.formats.registry import FLOAT16, FLOAT32, Runner
from compactnets.deploy.metadata import PREFIX
from compactnets.deploy.planar.build import Library, find_compiler, load
from compactnets.deploy.planar.emit import Program, emit, find_wide, pack, plan, read_program, steps
from compactnets.deploy.planar.trace import trace
from compactnets.errors import InputError

PROGRAM = "model.json"
WEIGHTS = "model.bin"


def write(
    model: nn.Module, example: Tensor, folder: Path, *, embed_weights: bool = False, precision: str = FLOAT32
) -> dict[str, Any]:
    """Write ``model.c`` and the files beside it for the size of ``example``.

    Args:
        embed_weights: whether ``model.c`` holds the weights as well.
        precision: of the weights in ``model.bin``. Biases stay float32, and weights that float16 cannot hold.

    Raises:
        InputError: an operator that the planar engine does not have, or no compiler to check the result with.
    """
    find_compiler()
    graph, weights, shapes = trace(model, example[:1])
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise InputError(f"the format c gives one vector for an image, this network gives {shapes}")
    stage("generating C")
    wide = find_wide(weights) if precision == FLOAT16 else ()
    program = Program(graph=graph, precision=precision, wide=wide, embed=embed_weights)
    ready = plan(program)
    (folder / WEIGHTS).write_bytes(pack(ready, weights))
    _save(program, folder)
    return {"operations": len(ready.graph.operations), "arena_bytes": 4 * ready.layout.floats}


def write_float16(model: nn.Module, example: Tensor, folder: Path, **options: Any) -> dict[str, Any]:
    """Write weights of 16 bits, as :func:`write` does."""
    return write(model, example, folder, precision=FLOAT16, **options)


def _save(program: Program, folder: Path) -> None:
    text = program.model_dump_json(exclude_defaults=True)
    (folder / PROGRAM).write_text(text + "\n", encoding="utf-8")
    packed = (folder / WEIGHTS).read_bytes() if program.embed else b""
    for name, source in emit(program, packed).items():
        (folder / name).write_text(source, encoding="utf-8")


def embed(path: Path, metadata: Mapping[str, str]) -> None:
    """Give the network its name, the normalisation of pixels and the names of its classes."""
    program = read_program(path.parent / PROGRAM)
    network = metadata[f"{PREFIX}network"]
    preprocess = json.loads(metadata[f"{PREFIX}preprocess"])
    name = re.sub(r"[^a-z0-9]+", "_", network.lower()).strip("_")
    labels = json.loads(metadata.get(f"{PREFIX}class_labels", "null")) or json.loads(metadata[f"{PREFIX}class_names"])
    update = {
        "name": name[:64] if name[:1].isalpha() else f"network_{name}"[:64],
        "network": network,
        "mean": tuple(preprocess["mean"]),
        "std": tuple(preprocess["std"]),
        "crop": preprocess["size"] / preprocess["resize"] if preprocess.get("resize") else 1.0,
        "labels": tuple(labels),
    }
    _save(program.model_copy(update=update), path.parent)


def open_runner(path: Path, threads: int | None) -> Runner:
    """Generate the source again, compile it, and load it.

    Raises:
        InputError: files that do not fit together, or no compiler.
    """
    _, library = _load(path, threads or 1)
    return lambda images: library.run(np.asarray(images), threads or 1)


def time_operators(path: Path, images: np.ndarray, threads: int | None, calls: int) -> list[OperatorTime]:
    """Time layers with clocks compiled in between, on one thread whatever ``threads`` is."""
    program, library = _load(path, 1, ["-DPLANAR_PROFILE"])
    kinds = steps(program)
    library.run(images)
    events, before = [], library.seconds(len(kinds))
    for _ in range(calls):
        library.run(images)
        now = library.seconds(len(kinds))
        events += list(zip(kinds, (1e6 * (now - before)).tolist(), strict=True))
        before = now
    return summarize(events, calls)


def _load(path: Path, threads: int, flags: Sequence[str] = ()) -> tuple[Program, Library]:
    folder = path.parent
    try:
        program = read_program(folder / PROGRAM)
        expected = 4 * plan(program).floats
        weights = (folder / WEIGHTS).read_bytes()
        if len(weights) != expected:
            raise InputError(f"{folder / WEIGHTS} has {len(weights):,} bytes, expected {expected:,}")
        texts = emit(program, weights)
        found = {name: (folder / name).read_text(encoding="utf-8") for name in ("model.c", "model.h")}
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # pydantic's errors are among them
        raise InputError(f"{folder / PROGRAM} describes no network: {str(error).splitlines()[0]}") from None
    for name, text in found.items():
        if text != texts[name]:
            raise InputError(
                f"{folder / name} is not what this release generates from {PROGRAM}: it is not compiled; export again"
            )
    graph = program.graph
    stage("compiling")
    shape = (graph.channels, graph.height, graph.width)
    library = load(texts, program.name, shape, graph.outputs, weights, flags, threads)
    return program, library
