"""Which engine a network of the page gets, and what is said where the usual one cannot be used; without a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compactnets.deploy.planar.arrays import UnsupportedError
from compactnets.deploy.planar.wasm import find_wasm_compiler
from compactnets.deploy.record import ArtifactRecord, read_artifact
from compactnets.deploy.subject import Classifier
from compactnets.errors import InputError, LimitError
from compactnets.web import site as web_site
from compactnets.web.planar import make_module
from compactnets.web.site import Opened, build_site

from ..deploy.helpers import CLASSES, Small, tiny_network
from .conftest import needs_compilers
from .helpers import TINY, record_of


class Odd(Small):
    """An operator that the planar engine does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cumsum(x, 3))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """In place of the built page."""
    (tmp_path / "page" / "assets").mkdir(parents=True)
    for name in ("index.html", "assets/ort-a.wasm"):
        (tmp_path / "page" / name).write_bytes(b"0")
    return tmp_path / "page"


def opened(model: nn.Module, engine: str | None) -> Opened:
    subject = Classifier(model.eval(), record_of("tiny", TINY, CLASSES))
    return Opened(subject, None, "", engine or "planar", fixed=engine is not None)


def no_compiler() -> list[str]:
    raise InputError("no compiler here: python -m pip install 'compactnets[c]'")


def test_a_network_is_compiled_and_compared_as_webassembly(artifacts: Path, page: Path, tmp_path: Path) -> None:
    """As WebAssembly where Node.js is there: other weights are found out."""
    if shutil.which("node") is None:
        pytest.skip("no Node.js")
    record, folder = read_artifact(artifacts / "tiny", ArtifactRecord)
    module = make_module(record, folder, Classifier(tiny_network(), record.network))
    assert module.code.startswith(b"\0asm")
    assert module.weights == (folder / "model.bin").read_bytes()
    assert module.verification is not None
    assert module.verification.checks[0].relative_difference < 1e-5
    other = tiny_network()
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    with pytest.raises(LimitError, match="WebAssembly of tiny differs from PyTorch"):
        make_module(record, folder, Classifier(other, record.network))


def test_an_operator_that_it_does_not_have(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The network runs in ONNX Runtime Web, with a line that names the operator; `--engine planar` refuses it."""
    needs_compilers()
    pytest.importorskip("onnxruntime")
    (tmp_path / "site").mkdir()
    catalogue = web_site._write_site([opened(Odd(), None)], page, tmp_path / "site")
    assert catalogue["networks"][0]["engine"] == "onnx"
    assert (tmp_path / "site" / "assets" / "ort-a.wasm").exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if "ONNX Runtime Web" in line]
    assert len(lines) == 1
    assert "cumsum" in lines[0]
    (tmp_path / "refused").mkdir()
    with pytest.raises(UnsupportedError, match="cumsum"):
        web_site._write_site([opened(Odd(), "planar")], page, tmp_path / "refused")


def test_no_compiler_for_webassembly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime Web with a line that says how to get one; without ONNX either, or if it was asked for, an error."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(web_site, "find_wasm_compiler", no_compiler)
    (only,) = web_site._open_all(["muffnet_x0_5.cifar10"], None)
    assert only.engine == "onnx"
    said = capsys.readouterr().err
    assert "muffnet_x0_5" in said
    assert "pip install 'compactnets[c]'" in said
    with pytest.raises(InputError, match=r"compactnets\[c\]"):
        web_site._open_all(["muffnet_x0_5.cifar10"], "planar")
    (chosen,) = web_site._open_all(["muffnet_x0_5.cifar10"], "onnx")
    assert chosen.engine == "onnx"
    assert capsys.readouterr().err == ""

    def no_format(name: str) -> Any:
        raise InputError("compactnets[onnx]")

    monkeypatch.setattr(web_site, "find_format", no_format)
    with pytest.raises(InputError, match=r"compactnets\[c\]"):
        web_site._open_all(["muffnet_x0_5.cifar10"], None)


def test_the_compiler_is_one_that_makes_webassembly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``$CC`` if it can; a compiler that cannot is passed over."""
    for name, status in (("able", 0), ("unable", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setenv("CC", "able --option")
    assert find_wasm_compiler() == ["able", "--option"]
    monkeypatch.setenv("CC", "unable")
    (tmp_path / "clang").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (tmp_path / "clang").chmod(0o755)
    with pytest.raises(InputError, match=r"pip install 'compactnets\[c\]'"):
        find_wasm_compiler()


def test_an_engine_that_does_not_fit(onnx_artifact: Path, page: Path, tmp_path: Path) -> None:
    for engine, message in (("planr", "did you mean 'planar'"), ("planar", "format onnx, which --engine planar")):
        with pytest.raises(InputError, match=message):
            build_site([str(onnx_artifact)], tmp_path / "site", engine=engine, page=page)
    assert not (tmp_path / "site").exists()


def test_a_spoilt_artifact_is_one_line(artifacts: Path, page: Path, tmp_path: Path) -> None:
    """Its program is read as data, and its ``model.c`` is never compiled."""
    from compactnets.deploy.record import digest

    folder = Path(shutil.copytree(artifacts / "tiny", tmp_path / "artifact"))
    (folder / "model.json").write_text('{"name": "x"}', encoding="utf-8")
    (folder / "model.c").write_text("#error compiled", encoding="utf-8")
    record = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    record["files"] |= {name: digest(folder / name) for name in ("model.json", "model.c")}
    (folder / "artifact.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match="is not a valid network") as found:
        build_site([str(folder)], tmp_path / "site", page=page)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "site").exists()
    shutil.copy(artifacts / "tiny" / "model.json", folder / "model.json")
    record["files"]["model.json"] = digest(folder / "model.json")
    (folder / "artifact.json").write_text(json.dumps(record), encoding="utf-8")
    assert build_site([str(folder)], tmp_path / "site", page=page)["networks"][0]["engine"] == "planar"
