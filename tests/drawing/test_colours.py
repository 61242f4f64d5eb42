"""The colours of classes."""

from __future__ import annotations

from compactnets.drawing.colours import class_colour


def test_colours_of_classes_differ() -> None:
    assert len({class_colour(label) for label in range(21)}) == 21
    assert class_colour(21) == class_colour(0)
