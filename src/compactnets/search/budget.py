"""Budgets, such as ``latency=3ms`` or ``macs=40M``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compactnets.errors import InputError, did_you_mean

# the units of each quantity, as factors of the one it is kept in
UNITS: Mapping[str, Mapping[str, float]] = {
    "latency": {"ms": 1.0, "us": 1e-3, "s": 1e3},
    "macs": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
    "params": {"": 1.0, "K": 1e3, "M": 1e6},
    "bytes": {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "KiB": 1024.0, "MiB": 1024.0**2},
    "memory": {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "KiB": 1024.0, "MiB": 1024.0**2},
}
EXAMPLES = {"latency": "3ms", "macs": "40M", "params": "1.2M", "bytes": "1.5MB", "memory": "400KB"}


@dataclass(frozen=True)
class Budget:
    """The most that a network may need of each quantity: latency in milliseconds, others as plain numbers."""

    limits: Mapping[str, float]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Budget:
        """Read ``["latency=3ms", "macs=40M"]``.

        Raises:
            InputError: no budget, an unknown quantity or unit, a number that is not positive, or one given twice.
        """
        limits: dict[str, float] = {}
        for text in texts:
            name, equals, amount = (part.strip() for part in text.partition("="))
            if not equals or name not in UNITS:
                hint = did_you_mean(name, UNITS)
                raise InputError(f"--budget is one of {_examples()}, found {text!r}{hint}")
            found = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([A-Za-z]*)", amount)
            units = UNITS[name]
            if found is None or found[2] not in units or not 0 < float(found[1]) * units[found[2]] < math.inf:
                known = ", ".join(unit or "no unit" for unit in units)
                raise InputError(
                    f"--budget {name} is a positive number with a unit ({known}), such as {name}={EXAMPLES[name]}, "
                    f"found {text!r}"
                )
            if name in limits:
                raise InputError(f"--budget {name} is given twice: give one of them")
            limits[name] = float(found[1]) * units[found[2]]
        if not limits:
            raise InputError(f"search needs a --budget, such as {_examples()}")
        return cls(limits)

    def excess(self, costs: Mapping[str, float | None]) -> float:
        """Return by which share the worst quantity is over its limit; at most 0 if all fit. Unknown costs fit."""
        shares = [value / limit - 1 for name, limit in self.limits.items() if (value := costs.get(name)) is not None]
        return max(shares, default=0.0)

    def exceeded(self, costs: Mapping[str, float | None]) -> list[str]:
        """Return the quantities that are over their limits."""
        return [name for name, limit in self.limits.items() if (costs.get(name) or 0) > limit]


def show_amount(name: str, value: float | None) -> str:
    """Return an amount in a unit that suits it: ``2.31 ms``, ``40.1 M``, ``1.52 MB``."""
    if value is None:
        return "-"
    if name == "latency":
        return f"{value:.3g} ms"
    unit = "B" if name in ("bytes", "memory") else ""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.0f} {unit}".strip()


def _examples() -> str:
    return ", ".join(f"{name}={example}" for name, example in EXAMPLES.items())
