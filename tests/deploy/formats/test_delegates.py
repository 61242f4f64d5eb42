"""Programs of ExecuTorch for delegates that its runtime here does not have: what is checked of them, and refused."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compactnets.deploy import FORMATS, export, load_artifact
from compactnets.deploy.formats import executorch as executorch_format
from compactnets.deploy.formats.delegates import DELEGATES
from compactnets.deploy.formats.registry import find_format
from compactnets.deploy.record import NAME
from compactnets.deploy.verify import TOLERANCES
from compactnets.errors import InputError, LimitError
from compactnets.latency.benchmark import parse_format

from ...cli.conftest import run  # noqa: F401
from ...cli.helpers import Outcome
from ...conftest import Once
from ..conftest import needs
from ..helpers import CLASSES, SIZE, Small, check_delegated, tiny_record

Make = Callable[[str, str], Path]

OTHERS = [name for name in DELEGATES if name != "xnnpack"]


@pytest.fixture(scope="session")
def written(once: Once) -> Make:
    """Write the small network once for each delegate and precision."""

    def make(delegate: str, precision: str) -> Path:
        return once(
            f"{delegate}-{precision}",
            lambda folder: export(
                Small().eval(), tiny_record(), "executorch", folder, delegate=delegate, precision=precision
            ),
        )

    return cache(make)


@pytest.fixture
def artifact(written: Make, tmp_path: Path) -> Make:
    """A copy of an artifact, for a test to do with what it likes."""

    def make(delegate: str, precision: str = "float32") -> Path:
        needs_delegate(delegate)
        return Path(shutil.copytree(written(delegate, precision), tmp_path / f"{delegate}-{precision}"))

    return make


def needs_delegate(name: str) -> None:
    """Skip where a package is missing, or where the runtime has the delegate."""
    needs("executorch")
    try:
        fmt = FORMATS["executorch"].delegating(name)
        fmt.versions()
    except InputError as error:
        pytest.skip(str(error))
    if fmt.runs_here:
        pytest.skip(f"the runtime has {name}")


@pytest.mark.parametrize("name", OTHERS)
def test_the_file_is_checked_where_it_cannot_run(artifact: Make, name: str) -> None:
    folder = artifact(name)
    record = json.loads((folder / NAME).read_text())
    details, verification = record["details"], record["verification"]
    assert (details["delegate"], details["delegates"], details["delegated_share"]) == (name, 1, 1)
    assert details["delegated_operators"] >= 6
    assert details["other_operators"] == {}
    assert (verification["ran"], verification["checks"]) == (False, [])
    assert DELEGATES[name].backend in verification["note"]
    assert DELEGATES[name].backend.encode() in (folder / "model.pte").read_bytes()
    with pytest.raises(InputError, match=DELEGATES[name].backend) as caught:
        load_artifact(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_the_default_says_so_and_runs(artifact: Make, tmp_path: Path) -> None:
    needs("executorch")
    record = export(Small().eval(), tiny_record(), "executorch", tmp_path / "a", delegate="xnnpack")
    assert record.details["delegate"] == "xnnpack"
    check_delegated(record.details)
    assert record.verification.ran
    assert record.opener() is FORMATS["executorch"]
    without = {key: value for key, value in record.details.items() if key != "delegate"}  # as earlier artifacts
    assert record.model_copy(update={"details": without}).opener() is FORMATS["executorch"]


@pytest.mark.parametrize("name", OTHERS)
def test_float16_is_computed_here_instead(artifact: Make, name: str) -> None:
    folder = artifact(name, "float16")
    record = json.loads((folder / NAME).read_text())
    assert (record["precision"], record["details"]["float16"]) == ("float16", "computed")
    assert 1e-5 < record["details"]["float16_difference"] < TOLERANCES["float16"]
    assert record["verification"]["ran"] is False
    assert (folder / "model.pte").read_bytes() != (artifact(name) / "model.pte").read_bytes()


def test_vulkan_stores_float16_in_fewer_bytes(tmp_path: Path) -> None:
    needs_delegate("vulkan")
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, 2)).eval()
    sizes = []
    for precision in ("float32", "float16"):
        (folder := tmp_path / precision).mkdir()
        FORMATS["executorch"].delegating("vulkan").write(network, torch.zeros(1, 3, 16, 16), folder, precision)
        sizes.append((folder / "model.pte").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]


class Loud(nn.Module):
    """Sums of a million, which float16 does not hold, from weights that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.classifier = nn.Conv2d(3, 8, 1), nn.Linear(8, CLASSES)
        nn.init.constant_(self.first.weight, 1e6 / 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.first(x.abs() + 20).mean((2, 3)))


def test_what_float16_cannot_compute_is_refused(tmp_path: Path) -> None:
    needs_delegate("vulkan")
    with pytest.raises(LimitError, match="float16"):
        export(Loud().eval(), tiny_record(), "executorch", tmp_path / "a", delegate="vulkan", precision="float16")
    assert not list(tmp_path.iterdir())


class Sorting(Small):
    """An operator in the middle that no delegate takes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sort(3).values * 2)


def test_operators_left_to_the_cpu_are_counted(tmp_path: Path) -> None:
    needs_delegate("vulkan")
    fmt = FORMATS["executorch"].delegating("vulkan")
    details = fmt.write(Sorting().eval(), torch.zeros(1, 3, 16, 16), tmp_path)
    assert list(details["other_operators"].values()) == [1]
    assert "sort" in next(iter(details["other_operators"]))
    assert details["delegated_share"] == details["delegated_operators"] / (details["delegated_operators"] + 1)


def test_a_convolution_left_to_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_delegate("vulkan")
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
    from executorch.exir.dialects._ops import ops

    without = VulkanPartitioner(operator_blocklist=[ops.edge.aten.convolution.default])
    monkeypatch.setattr(executorch_format, "_partitioner", lambda *_: without)
    with pytest.raises(InputError, match=r"Vulkan does not take .*conv"):
        FORMATS["executorch"].delegating("vulkan").write(Small().eval(), torch.zeros(1, 3, 16, 16), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_shape_is_noticed(artifact: Make) -> None:
    path = artifact("vulkan") / "model.pte"
    executorch_format._check_tensors(path, torch.Size([1, 3, SIZE, SIZE]), torch.Size([1, CLASSES]))
    with pytest.raises(InputError, match=f"{SIZE + 1}"):
        executorch_format._check_tensors(path, torch.Size([1, 3, SIZE, SIZE + 1]), torch.Size([1, CLASSES]))


def test_it_is_run_where_the_runtime_has_the_delegate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says so is the runtime, not the delegate's name; here the runtime then refuses the file."""
    needs_delegate("vulkan")
    monkeypatch.setattr(executorch_format, "has_backend", lambda name: True)
    with pytest.raises(InputError, match="cannot be loaded by ExecuTorch"):
        export(Small().eval(), tiny_record(), "executorch", tmp_path / "a", delegate="vulkan")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "delegate", "words"),
    [
        ("executorch", "vulcan", ["vulkan", "coreml", "did you mean 'vulkan'"]),
        ("executorch", "", [*DELEGATES, "''"]),
        *((name, "vulkan", ["--delegate", "executorch", name]) for name in FORMATS if name != "executorch"),
    ],
)
def test_other_delegates_are_one_line(tmp_path: Path, name: str, delegate: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        export(Small().eval(), tiny_record(), name, tmp_path / "a", delegate=delegate)
    assert len(str(caught.value).splitlines()) == 1
    assert all(word in str(caught.value) for word in words)
    assert not list(tmp_path.iterdir())


def test_float16_is_not_for_xnnpack() -> None:
    with pytest.raises(InputError, match="executorch has no float16"):
        find_format("executorch").delegating("xnnpack").check_precision("float16")


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def absent(package: str) -> str:
        if package == "coremltools":
            raise importlib.metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr("compactnets.deploy.formats.registry.version", absent)
    needs("executorch")
    with pytest.raises(InputError, match=r"'compactnets\[executorch,coreml\]'$"):
        export(Small().eval(), tiny_record(), "executorch", tmp_path / "a", delegate="coreml")


def test_a_release_without_the_delegate_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("executorch")
    monkeypatch.setitem(sys.modules, "executorch.backends.vulkan.partitioner.vulkan_partitioner", None)
    with pytest.raises(InputError, match="pip install --upgrade executorch") as caught:
        export(Small().eval(), tiny_record(), "executorch", tmp_path / "a", delegate="vulkan")
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_record_of_an_unknown_delegate_is_one_line(artifact: Make) -> None:
    folder = artifact("vulkan")
    text = (folder / NAME).read_text()
    (folder / NAME).write_text(text.replace('"delegate": "vulkan"', '"delegate": "other"'))
    with pytest.raises(InputError, match="'other'"):
        load_artifact(folder)
    # one that claims a delegate of the runtime: the file itself says which it is
    (folder / NAME).write_text(text.replace('"delegate": "vulkan"', '"delegate": "xnnpack"'))
    with pytest.raises(InputError, match="cannot be loaded by ExecuTorch"):
        load_artifact(folder)


@pytest.mark.parametrize("name", OTHERS)
def test_it_cannot_be_measured_here(name: str) -> None:
    with pytest.raises(InputError, match=f"executorch@{name} cannot be measured"):
        parse_format(f"executorch@{name}")


def test_verbs_that_would_run_it_say_where_it_runs(
    run: Callable[..., Outcome],  # noqa: F811
    artifact: Make,
    tmp_path: Path,
) -> None:
    folder = artifact("vulkan")
    for arguments in (
        ("predict", "--checkpoint", folder, tmp_path),
        ("eval", "--checkpoint", folder, "--data", "digits"),
        ("benchmark", "muffnet_x0_5", "--formats", "onnx,executorch@vulkan"),
        ("benchmark", folder),
    ):
        done = run(*arguments)
        assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
        assert "runs only on devices with Vulkan" in done.err or "exported network" in done.err
    wrong = run("export", "muffnet_x0_5", "--format", "onnx", "--delegate", "vulkan", "--output", tmp_path / "a")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert "--delegate" in wrong.err


@pytest.mark.slow  # Core ML's tools take half a minute for a whole network
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("network", ["menet_108_8x1_g3", "muffnet_x0_5"])
def test_a_whole_network_is_one_delegate(
    run: Callable[..., Outcome],  # noqa: F811
    tmp_path: Path,
    network: str,
    name: str,
) -> None:
    needs_delegate(name)
    chosen: list[Any] = ["--set", "num_classes=7", "--size", "64", "--output", tmp_path / "a", "--json"]
    done = run("export", network, "--format", "executorch", "--delegate", name, *chosen)
    assert done.code == 0, done.err
    details = done.json["details"]
    assert (details["delegates"], details["delegated_share"], details["other_operators"]) == (1, 1, {})
