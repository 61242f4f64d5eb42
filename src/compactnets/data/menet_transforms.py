"""The eight training transforms of the MENet repository, by its names (``pyvision/dataloaders/ImageNet.py``)."""

from __future__ import annotations

from typing import Any

from compactnets.errors import InputError, did_you_mean

_CROPS: dict[str, dict[str, Any]] = {
    "more_aggressive": {"crop": "resized", "scale": (0.08, 1.0)},
    "aggressive": {"crop": "resized", "scale": (0.36, 1.0)},
    "less_aggressive": {"crop": "resized", "scale": (0.64, 1.0)},
    "conservative": {"crop": "pad", "pad": 0},  # of the image resized to a shorter edge of 256
}
JITTER = "_with_color_jitter"
MENET_TRANSFORMS = {
    f"{name}{suffix}": {**crop, "flip": True, **({"color_jitter": 0.1, "hue": 0.1} if suffix else {})}
    for name, crop in _CROPS.items()
    for suffix in ("", JITTER)
}


def menet_transform(name: str) -> dict[str, Any]:
    """Return the fields of :class:`compactnets.data.Augment` for one of the repository's transforms.

    Raises:
        InputError: no such transform.
    """
    if name not in MENET_TRANSFORMS:
        near = did_you_mean(name, MENET_TRANSFORMS) or f"; known: {', '.join(MENET_TRANSFORMS)}"
        raise InputError(f"no transform is called {name!r}{near}")
    return dict(MENET_TRANSFORMS[name])
