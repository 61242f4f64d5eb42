"""Print the tables of docs/muffnet.md: python docs/muffnet_evidence.py (about ten seconds).

The first two come from a count of its own, which shares nothing with the package but the rounding of the patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import fsolve

import compactnets
from compactnets.complexity import count
from compactnets.models.budget import stage_macs
from compactnets.models.muffnet import VARIANTS
from compactnets.models.sharing import make_sharing
from compactnets.papers.stated import load_paper

LAYERS = (4, 8, 4)
PRINTED = ((1.38, 0.005, 42, 41), (2.3, 0.05, 146, 174), (3.4, 0.05, 300, 373))  # P and its rounding, F, C
MAPS = (((56, 32), (28, 32)), ((28, 32), (14, 16)), ((14, 16), (7, 8)))  # before and after each reduction block
ROWS = list(dict.fromkeys(row.label for table in "1234" for row in load_paper("muffnet").table(table).rows))


def network(stages: Sequence[Any], stem: int = 24, printed: bool = False) -> Iterator[tuple[str, int, int, Any, Any]]:
    """Yield (part, map at 224, map at 32, weights, batch-norm parameters) of all but the classifier.

    The widths may be arrays, which broadcast; whole widths round the inner width of a reduction block down. With
    ``printed`` the reduction blocks cost what section 3.2 prints.
    """
    yield "stem", 112, 32, 27 * stem, 2 * stem
    m_i: Any = stem
    for k, (m_j, weights, norms, out) in enumerate(stages):
        c = (m_i + m_j) / 2 if isinstance(m_j, float) else (m_i + m_j) // 2
        five = 25 * (m_i * m_i + c * (m_i + m_j)) if printed else 25 * (m_i + c)
        yield f"first {k}", *MAPS[k][0], m_i * c, 2 * c
        yield f"reduction {k}", *MAPS[k][1], five + (m_i + c) * m_j, 2 * (m_i + c + 2 * m_j)
        yield f"blocks {k}", *MAPS[k][1], weights, norms
        m_i = out
    yield "head", 7, 8, 1024 * m_i, 2 * 1024


def counts(parts: Sequence[tuple[str, int, int, Any, Any]]) -> tuple[Any, Any, Any]:
    """Return parameters, MACs at 224 x 224 with 1000 classes and at 32 x 32 with 10, in millions."""
    params = sum(part[3] + part[4] for part in parts) + 1025 * 1000
    large = sum(part[1] ** 2 * part[3] for part in parts) + 1024 * 1000
    small = sum(part[2] ** 2 * part[3] for part in parts) + 1024 * 10
    return params / 1e6, large / 1e6, small / 1e6


def stage(pattern: str, layers: int, width: float, reading: str) -> tuple[Any, Any, Any, Any]:
    """Return width of the first layer, weights and batch-norm parameters of the blocks, output."""
    if pattern == "none":
        matrix = width * np.eye(layers, dtype=type(width))
    elif pattern == "dense":
        matrix = width * np.triu(np.ones((layers, layers)))
    elif reading == "exact":  # the entry reading without rounding
        d = np.arange(layers) - np.arange(layers)[:, None]
        matrix = width * np.triu({"average": d**0.0, "linear": 1 / (abs(d) + 1), "geometric": 0.5**d}[pattern])
    else:
        matrix = np.array(make_sharing(pattern, layers, width, "entry" if reading == "entry" else "row").entries)  # type: ignore[union-attr]
    if reading == "column":  # every block reads `width` channels: the mirror image of the row reading
        matrix = matrix.T[::-1, ::-1]
    rows = [width] * layers if pattern == "dense" else matrix.sum(1).tolist()
    *columns, out = matrix.sum(0).tolist()
    pairs = list(zip(columns, rows[1:], strict=True))
    return rows[0], sum(i * i + 9 * i + i * j for i, j in pairs), sum(4 * i + 2 * j for i, j in pairs), out


def search(reading: str, stem: int, printed: bool = False) -> Iterator[str]:
    """Find the even widths of average+geometric+none that print all three counts, for each size of the network."""
    wide = (range(8, 150, 2), range(20, 280, 2), range(20, 450, 2))
    grids = (range(2, 60, 2), range(10, 150, 2), wide[2]) if reading == "entry" else wide
    stages = []
    for k, pattern in enumerate(("average", "geometric", "none")):
        columns = zip(*(stage(pattern, LAYERS[k], width, reading) for width in grids[k]), strict=True)
        stages.append([np.array(column).reshape([-1 if axis == k else 1 for axis in range(3)]) for column in columns])
    params, large, small = counts(list(network(stages, stem, printed)))
    for p, digit, f, c in PRINTED:
        found = np.argwhere((abs(params - p) <= digit) & (abs(large - f) <= 0.5) & (abs(small - c) <= 0.5))
        if not len(found):
            yield "none"
            continue
        outs = np.array([[stages[k][3].flat[i] for k, i in enumerate(row)] for row in found])
        growth = outs[:, 1:] / outs[:, :-1]
        best = abs(np.log2(growth) - 1).max(axis=1).argmin()
        widths = tuple(grids[k][i] for k, i in enumerate(found[best]))
        yield f"{len(found)}: {widths}, x{growth[best][0]:.1f} x{growth[best][1]:.1f}"


OWN = {f"{part} {k}": k for part in ("reduction", "blocks") for k in range(3)}
ACCOUNTS = {  # which stage a part counts with
    "all that runs at a resolution": {**OWN, "first 0": 0, "first 1": 0, "first 2": 1, "head": 2},
    "reduction block, blocks, in stage 3 the 1x1": {**OWN, **{f"first {k}": k for k in range(3)}, "head": 2},
    "blocks": {f"blocks {k}": k for k in range(3)},
}
PLAIN = (23, 57, 136)
START = {
    "none": PLAIN,
    "average": (8, 12, 46),
    "geometric": (15, 32, 84),
    "linear": (13, 27, 78),
    "dense": (12, 15, 52),
}


def fitted(row: str, account: dict[str, int]) -> tuple[float, float, float]:
    """Return the counts of a row whose stages cost, with real-valued widths, what those of the plain network do."""

    def parts(row: str, widths: Sequence[float]) -> list[tuple[str, int, int, Any, Any]]:
        plans = zip(row.split("+"), LAYERS, map(float, widths), strict=True)
        return list(network([stage(*plan, "exact") for plan in plans]))

    def stages(row: str, widths: Sequence[float]) -> np.ndarray:
        macs = [(account.get(part[0]), part[1] ** 2 * part[3]) for part in parts(row, widths)]
        return np.array([sum(value for owner, value in macs if owner == k) for k in range(3)])

    plain = stages("none+none+none", PLAIN)
    start = [START[pattern][k] for k, pattern in enumerate(row.split("+"))]
    widths = fsolve(lambda widths: stages(row, widths) / plain - 1, start)
    assert abs(stages(row, widths) / plain - 1).max() < 1e-6
    return counts(parts(row, widths))


def built(name: str, size: int = 224, **arguments: Any) -> tuple[Any, float, float]:
    """Return a network of the package, its parameters and its MACs, in millions."""
    with torch.device("meta"):
        model = compactnets.create_model(name, **arguments).eval()
    macs, params = count(model, (3, size, size))
    return model, params / 1e6, macs / 1e6


def main() -> None:
    for reading in ("entry", "row", "column"):
        for stem in (24, 28):
            print(f"| {reading} | {stem} |", " | ".join(search(reading, stem)), "|")
    for stem in (16, 24, 32):
        print(f"| entry, printed formula | {stem} |", " | ".join(search("entry", stem, printed=True)), "|")
    for name, account in ACCOUNTS.items():
        p, f, _ = np.array([fitted(row, account) for row in ROWS if row != "none+none+none"]).T
        good = sum((p >= 1.375) & (p < 1.385) & (f >= 41.5) & (f < 42.5))
        print(f"| {name} | {p.min():.3f} to {p.max():.3f} | {f.min():.1f} to {f.max():.1f} | {good} of {len(p)} |")
    plain = stage_macs([make_sharing("none", *plan) for plan in zip(LAYERS, PLAIN, strict=True)], 24, 1024)
    for row in ROWS:
        model, params, macs = built("muffnet_x0_5", sharing=row)
        ends = ", ".join(f"{plan.layer_channels[0]}-{plan.layer_channels[-1]}" for plan in model.sharing)
        pairs = zip(stage_macs(model.sharing, 24, 1024), plain, strict=True)
        misfits = " ".join(f"{100 * (found / wanted - 1):+.2f}" for found, wanted in pairs)
        print(f"| {row} | {params:.3f} | {macs:.2f} | {ends} | {misfits} |")
    for name, variant in VARIANTS.items():
        small = built(name, 32, stem="cifar", num_classes=10)[2]
        _, params, macs = built(name)
        print(f"| {name} | {variant['base_widths']} | {params:.3f} | {macs:.2f} | {small:.2f} |")


if __name__ == "__main__":
    main()
