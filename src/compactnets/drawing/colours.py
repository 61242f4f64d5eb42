"""The colours of classes: told apart with every kind of colour vision, the same in every picture."""

from __future__ import annotations

Colour = tuple[int, int, int]  # red, green, blue from 0 to 255

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# Okabe and Ito, "Color Universal Design", 2008, without black: distinguishable with every kind of colour vision
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def class_colour(label: int) -> Colour:
    """Return the colour of a class: seven that everyone can distinguish, then the same darker, then lighter.

    From the 22nd class on they repeat.
    """
    colour, round_ = PALETTE[label % len(PALETTE)], label // len(PALETTE) % 3
    if round_ == 0:
        return colour
    other = BLACK if round_ == 1 else WHITE
    red, green, blue = ((2 * own + mixed) // 3 for own, mixed in zip(colour, other, strict=True))
    return red, green, blue
