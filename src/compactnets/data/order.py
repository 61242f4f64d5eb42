"""Randomness without state: the images of an epoch, a process's share of them, and the random numbers of each.

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


def balanced_order(labels: np.ndarray, seed: int, epoch: int, length: int) -> np.ndarray:
    """Return the draws of an epoch that shows every class equally often: ``(length,)`` int64, in random order.

    The number of draws per class differs by at most one in an epoch, and in a whole run. All images of a class are
    drawn before one is drawn again, also from one epoch to the next. The draw ``index + repeat * N`` shows image
    ``index`` of the N images: those of one image in an epoch have different ``repeat``, and so other random numbers.

    Args:
        labels: ``(N,)`` int64; classes without images are passed over.
        length: of every epoch.
    """
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    classes = [own for own in by_class if len(own)]
    first = epoch * length  # draws of the epochs before; draw number n of the run is of class n modulo their number
    draws = np.empty(length, dtype=np.int64)
    for place, own in enumerate(classes):
        here = slice((place - first) % len(classes), None, len(classes))
        before = (first + here.start) // len(classes)
        turns = before + np.arange(len(draws[here]))
        repeats = turns // len(own) - before // len(own)
        draws[here] = own[_in_rounds(len(own), turns, mix_seed(seed, place))] + repeats * len(labels)
    return draws[epoch_order(length, seed, epoch)]


def _in_rounds(count: int, turns: np.ndarray, seed: int) -> np.ndarray:
    """Return places ``turns`` (consecutive) of an endless row of permutations of ``range(count)``."""
    if not len(turns):
        return turns
    places = np.arange(turns[0] // count * count, (turns[-1] // count + 1) * count)
    shuffled = np.lexsort((Draws.of(seed, 0, places).uniform(0), places // count))
    return (places[shuffled] % count)[turns - places[0]]


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
