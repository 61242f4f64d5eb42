"""The image and label columns of a table in the Hugging Face layout."""

from __future__ import annotations


def choose_columns(images: list[str], labels: list[str]) -> tuple[str | None, str | None]:
    """Choose image and label among the columns declared as such: the usual name, or the only one, or ``None``."""
    chosen = []
    for names, preferred in ((images, ("image",)), (labels, ("label", "fine_label"))):
        only = names[0] if len(names) == 1 else None
        chosen.append(next((name for name in preferred if name in names), only))
    return chosen[0], chosen[1]
