"""What the tests of the space share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any


class Chance:
    """Proposes at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        return self.random.randrange(low, high + 1, step)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)
