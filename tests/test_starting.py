"""What the import of torchvision and timm leaves out, and that it is there when asked for."""

from __future__ import annotations

import importlib.util
import subprocess
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


def test_torch_without_the_private_function(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A future version may lack it: timm's decorators then are torch's own, which load the compiler."""
    monkeypatch.setitem(sys.modules, "torch._compile", None)  # importing it raises ImportError
    spec = importlib.util.spec_from_file_location("starting_again", starting.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    monkeypatch.setattr(again, "COMPILER", compiler)
    monkeypatch.setattr(again, "ASKED", f"{compiler}.utils")
    own, names = torch.compiler.disable, {}
    with again.without_the_compiler():
        assert torch.compiler.disable is own
        exec(f"from {compiler}.utils import is_compile_supported", names)
    assert torch.compiler.disable is own
    assert names["is_compile_supported"]("cpu")


@pytest.mark.slow
def test_the_package_with_such_a_torch() -> None:
    code = """
import builtins
real = builtins.__import__
def without(name, globals=None, *rest, **named):
    if name == "torch._compile" and (globals or {}).get("__name__") == "compactnets.starting":
        raise ImportError(name)
    return real(name, globals, *rest, **named)
builtins.__import__ = without
import compactnets, timm, torch
from compactnets import starting
assert starting._disable_dynamo is None
for name in ("muffnet_x0_5", "mobilenetv3_small_100"):
    assert timm.create_model(name, num_classes=3).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_disabled_function_is_not_compiled() -> None:
    compiling = []

    @starting._disable
    def function(x: torch.Tensor) -> torch.Tensor:
        compiling.append(torch.compiler.is_compiling())
        return x + 1

    found = torch.compile(lambda x: function(x) * 2, backend="eager")(torch.ones(2))
    assert found.tolist() == [4, 4]
    assert compiling == [False]
