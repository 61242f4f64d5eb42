"""Networks that take some sizes only, as some of timm's do: the artifact takes those that the network takes.

What the network refuses is one line from the artifact too, and a network that cannot be written for open sizes is one
line at export.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.deploy import FORMATS, export, load_artifact
from compactnets.deploy.record import ArtifactRecord, read_artifact
from compactnets.deploy.verify import TOLERANCES
from compactnets.errors import InputError

from .conftest import needs
from .helpers import CLASSES, Small, tiny_record

ANY_SIZE = [name for name, form in FORMATS.items() if form.any_size and form.runs_here]
SHAPES = [(1, 1), (16, 16), (24, 24), (32, 32), (33, 33), (48, 33), (40, 24), (64, 64)]


class Classifier(nn.Module):
    """A stem and a head; what lies between makes the sizes that are taken."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, CLASSES)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.stem(x).relu()).mean((2, 3)))


class NoPadding(Classifier):
    """Ends in nothing below a size, as Inception does."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Sequential(nn.Conv2d(8, 8, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 3))

    def between(self, x: Tensor) -> Tensor:
        return self.more(x)


class Windows(Classifier):
    """Divides the map into windows of 8 pixels, as MaxViT does, and says so where it cannot."""

    def between(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        torch._assert(h % 8 == 0, f"height ({h}) must be divisible by window (8)")
        torch._assert(w % 8 == 0, f"width ({w}) must be divisible by window (8)")
        x = x.view(n, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 1, 3, 5)
        return x.softmax(-1).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


class Resized(Classifier):
    """Brings the map to whole windows and back, as MobileViT does."""

    def between(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        up = F.interpolate(x, size=((h + 3) // 4 * 4, (w + 3) // 4 * 4), mode="bilinear", align_corners=False)
        return F.interpolate(F.avg_pool2d(up, 4), size=(h, w), mode="bilinear", align_corners=False)


class Positions(Classifier):
    """Adds a table of positions that is brought to the size of the map, as dynamic vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 8, 7, 7))

    def between(self, x: Tensor) -> Tensor:
        return x * F.interpolate(self.table, size=x.shape[-2:], mode="bilinear", align_corners=False)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "no padding": NoPadding,
    "windows": Windows,
    "resized": Resized,
    "positions": Positions,
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "name", [name if name == "torch" else pytest.param(name, marks=pytest.mark.slow) for name in ANY_SIZE]
)
def test_the_sizes_of_the_record(name: str, network: str, tmp_path: Path) -> None:
    needs(name)
    model = NETWORKS[network]().eval()
    if (name, network) == ("ncnn", "windows"):  # pnnx traces at two sizes, of which one is no whole windows
        with pytest.raises(InputError) as refused:
            export(model, tiny_record(), name, tmp_path / "a")
        assert len(str(refused.value).splitlines()) == 1
        assert not list(tmp_path.iterdir())
        return
    record = export(model, tiny_record(), name, tmp_path / "a")
    assert record.input == [None, 3, None, None]
    artifact = load_artifact(tmp_path / "a")
    taken = 0
    for shape in SHAPES:
        images = torch.randn(2, 3, *shape)
        with torch.inference_mode():
            try:
                expected = model(images)
            except (AssertionError, RuntimeError):
                if name == "ncnn":  # it does not look at shapes: what comes is its own
                    continue
                with pytest.raises(InputError) as refused:
                    artifact(images)
                assert len(str(refused.value).splitlines()) == 1
                assert " x ".join(map(str, shape)) in str(refused.value)
                continue
            found = artifact(images)
        assert found.shape == expected.shape, shape
        assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max()), shape
        taken += 1
    assert taken >= 5
    assert (taken == len(SHAPES)) == (network in ("resized", "positions"))


@pytest.mark.parametrize("name", ["torch", "coreml"])
@pytest.mark.parametrize("tolerance", [None, 0.02])
def test_a_record_of_float16_states_what_was_checked(name: str, tolerance: float | None, tmp_path: Path) -> None:
    needs(name)
    export(Small().eval(), tiny_record(), name, tmp_path / "a", precision="float16", tolerance=tolerance)
    record, _ = read_artifact(tmp_path / "a", ArtifactRecord)
    form = FORMATS[name]
    assert record.precision == "float16"
    assert record.details["float16"] == form.float16
    assert record.verification.tolerance == (tolerance or TOLERANCES["float16"])
    differences = [getattr(check, record.verification.measure) for check in record.verification.checks]
    differences += [record.details["float16_difference"]] if form.float16 == "computed" else []
    assert differences
    assert max(differences) <= record.verification.tolerance
