"""Randomness without state: the order of an epoch, a process's share of it, and the random numbers of every image.

Everything is a function of (seed, epoch, index in the source), independent of earlier draws. A run that resumes in the
middle of an epoch, and any number of worker or training processes, therefore see the same images with the same changes.
"""

from __future__ import annotations

import hashlib
from typing import Any, Generic, TypeVar

import numpy as np
import torch

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15  # the golden ratio's fraction: the step of SplitMix64

Key = TypeVar("Key", int, np.ndarray)


def mix_seed(*parts: int) -> int:
    """Hash integers of any size and sign to a seed of 63 bits (BLAKE2b): similar inputs give unrelated seeds."""
    digest = hashlib.blake2b(repr(tuple(map(int, parts))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the images in ``epoch``: a permutation of ``range(length)``, ``(length,)`` int64."""
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch))
    return torch.randperm(length, generator=generator).numpy()


def local_share(order: np.ndarray, batch_size: int, step: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """Return the share of global batch ``step`` for process ``rank`` of ``world_size``.

    The concatenated shares of all processes are ``order[step * batch_size : (step + 1) * batch_size]``.
    """
    share = batch_size // world_size
    first = step * batch_size + rank * share
    return order[first : first + share]


class Draws(Generic[Key]):
    """The random numbers of one image in one epoch, or of many images at once.

    Number ``place`` is a function of (seed, epoch, index, place): the outputs of SplitMix64 (Steele, Lea and Flood,
    "Fast splittable pseudorandom number generators", OOPSLA 2014) from a start given by the first three. Each change
    reads its own places, so it does not affect the numbers of others, and no generator of torch or Python is touched.

    Made by :meth:`of`.

    Args:
        key: an ``int``, or ``(N,)`` uint64 for N images.
        origin: seed, epoch and index, for what spans epochs.
    """

    __slots__ = ("key", "origin")

    def __init__(self, key: Key, origin: tuple[int, int, Key] | None = None) -> None:
        self.key: Key = key
        self.origin: tuple[int, int, Key] | None = origin

    @classmethod
    def of(cls, seed: int, epoch: int, index: Key) -> Draws[Key]:
        """Return the numbers of image ``index`` (or of the images ``(N,)`` int64) in ``epoch``."""
        start = mix_seed(seed, epoch)
        place: Any = index.astype(np.uint64) if isinstance(index, np.ndarray) else int(index)
        return Draws(_mix(start + (place + 1) * GAMMA), (seed, epoch, index))

    def uniform(self, place: int, low: float = 0.0, high: float = 1.0) -> Any:
        """Return number ``place``, uniform in [low, high): a float, or ``(N,)`` float64."""
        return low + (high - low) * ((_mix(self.key + (place + 1) * GAMMA % (MASK + 1)) >> 11) * 2.0**-53)

    def alternate(self, place: int) -> Any:
        """Return a coin of ``place`` that is tossed once per image and turned over every epoch: a bool, or ``(N,)``."""
        assert self.origin is not None
        seed, epoch, index = self.origin
        return (Draws.of(seed, 0, index).uniform(place) < 0.5) ^ bool(epoch % 2)

    def integer(self, place: int, count: int) -> Any:
        """Return number ``place`` as one of ``range(count)``: an int, or ``(N,)`` int64."""
        value = self.uniform(place) * count
        return value.astype(np.int64) if isinstance(value, np.ndarray) else int(value)


def _mix(z: Any) -> Any:
    """SplitMix64's finalizer on an int or a uint64 array, modulo 2^64."""
    z = z & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)
