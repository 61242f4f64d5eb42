"""The drawing of M (figure 5)."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import compactnets
from compactnets.errors import InputError
from compactnets.models.muffnet import MuffNet
from compactnets.plots import draw_sharing


def build(sharing: str = "average+geometric+none", widths: tuple[float, ...] = (8, 32, 136)) -> MuffNet:
    with torch.device("meta"):
        return MuffNet(sharing, widths)


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))


def test_every_count_is_drawn(tmp_path: Path) -> None:
    model = build()
    path = tmp_path / "new folder" / "m.svg"
    draw_sharing(model, path)
    found = Counter(texts(path))
    counts = [count for sharing in model.sharing for row in sharing.entries for count in row if count]
    indices = [*range(16), *range(16)]  # of both axes
    assert Counter({text: number for text, number in found.items() if text.isdecimal()}) == Counter(
        map(str, [*counts, *indices])
    )
    assert {"stage 1", "stage 2", "stage 3", "32 channels out", "65 channels out", "136 channels out"} <= set(found)


def test_dense_sharing_is_drawn_by_whole_layers(tmp_path: Path) -> None:
    draw_sharing(build("none+none+dense", (23, 57, 52)), tmp_path / "m.svg")
    found = Counter(texts(tmp_path / "m.svg"))
    assert found["52"] == 4 + 3 + 2 + 1
    assert (found["23"], found["57"]) == (4, 8)
    assert found["whole layers (dense)"] == 1


def test_top_left_is_m_0_0(tmp_path: Path) -> None:
    """Cells lie on and above the diagonal, from the upper left corner to the lower right one."""
    path = tmp_path / "m.svg"
    draw_sharing(build(), path)
    place = r'<text[^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>(\d+)</text>'
    placed = [(float(x), float(y), int(text)) for x, y, text in re.findall(place, path.read_text(encoding="utf-8"))]
    diagonal = sorted(cell for cell in placed if cell[2] in (32, 136))  # no axis has these
    assert [cell[2] for cell in diagonal] == [32] * 8 + [136] * 4
    (step,) = {round(after[0] - before[0]) for before, after in itertools.pairwise(diagonal)}
    (step_down,) = {round(after[1] - before[1]) for before, after in itertools.pairwise(diagonal)}
    assert step == step_down > 0, "y grows downwards in SVG"
    right = min(cell for cell in placed if cell[2] == 16)  # M[4][5], nor has an axis this
    assert right[:2] == (pytest.approx(diagonal[0][0] + step, abs=1), pytest.approx(diagonal[0][1], abs=1))


def test_text_does_not_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **given: saved.append(self) or save(self, *args, **given)
    )
    for name, sharing in (("muffnet_x1_5", "average+geometric+none"), ("muffnet_x1_5", "dense+average+linear")):
        with torch.device("meta"):
            model = compactnets.create_model(name, sharing=sharing)
        draw_sharing(model, tmp_path / "m.png")
        figure = saved.pop()
        (axes,) = figure.axes
        labels = [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels()]
        boxes = [label.get_window_extent() for label in (*labels, *axes.get_yticklabels())]
        for index, box in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1
            assert not box.count_overlaps(boxes[index + 1 :])
        with Image.open(tmp_path / "m.png") as picture:
            assert min(picture.size) > 900


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only MuffNet has sharing matrices, found a Linear"):
        draw_sharing(nn.Linear(2, 2), tmp_path / "m.svg")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(InputError, match=r"m\.png cannot be written"):
        draw_sharing(build(), tmp_path / "file" / "m.png")
    with pytest.raises(InputError, match=r"suffix of a picture.*\.svg.*m\.docx"):
        draw_sharing(build(), tmp_path / "m.docx")
