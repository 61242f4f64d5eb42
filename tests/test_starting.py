"""What the import of torchvision and timm leaves out, and that it is there when asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from compactnets import starting


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package in the place of torch's compiler, which this process may have loaded."""
    name = "a_compiler"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("config = 'real'\n")
    (tmp_path / name / "utils.py").write_text("def is_compile_supported(device): return device == 'cpu'\nother = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(starting, "COMPILER", name)
    monkeypatch.setattr(starting, "ASKED", f"{name}.utils")
    for module in (name, f"{name}.utils"):
        monkeypatch.setitem(sys.modules, module, None)  # so that it is taken out again
        del sys.modules[module]
    return name


def test_the_compiler_is_loaded_at_the_first_call(compiler: str) -> None:
    names, own = {}, torch.compiler.disable
    with starting.without_the_compiler():
        exec(f"from {compiler}.utils import is_compile_supported", names)
        assert torch.compiler.disable is not own
    assert torch.compiler.disable is own
    assert not {compiler, f"{compiler}.utils"} & set(sys.modules)
    assert names["is_compile_supported"]("cpu")
    assert not names["is_compile_supported"]("tpu")
    assert f"{compiler}.utils" in sys.modules


@pytest.mark.parametrize(("module", "attribute", "value"), [("", "config", "real"), (".utils", "other", 5)])
def test_whatever_else_is_asked_for_is_real(compiler: str, module: str, attribute: str, value: object) -> None:
    with starting.without_the_compiler():
        names: dict[str, object] = {}
        exec(f"from {compiler}{module} import {attribute}", names)
        assert names[attribute] == value
        loaded = sys.modules[compiler]
        assert loaded.__file__
    assert sys.modules[compiler] is loaded


def test_a_loaded_compiler_stays(compiler: str) -> None:
    exec(f"import {compiler}")
    loaded, own = sys.modules[compiler], torch.compiler.disable
    with starting.without_the_compiler():
        assert sys.modules[compiler] is loaded
        assert torch.compiler.disable is own
    assert sys.modules[compiler] is loaded


def test_a_disabled_function_is_not_compiled() -> None:
    compiling = []

    @starting._disable
    def function(x: torch.Tensor) -> torch.Tensor:
        compiling.append(torch.compiler.is_compiling())
        return x + 1

    found = torch.compile(lambda x: function(x) * 2, backend="eager")(torch.ones(2))
    assert found.tolist() == [4, 4]
    assert compiling == [False]
