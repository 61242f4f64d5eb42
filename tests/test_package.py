"""The package as a whole: its README, what importing it does, and that its modules stand in layers."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .layers import LAYERS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "compactnets"
EXTRAS = (
    "pytorchcv",
    "datasets",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "executorch",
    "ncnn",
    "pnnx",
    "coremltools",
    "litert_torch",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "torchmetrics",
    "faster_coco_eval",
    "optuna",
    "ray",
    "graphviz",
    "av",
)
HEAVY = ("matplotlib", "simplejpeg", "tensorboard", "torch._dynamo")  # imported when they are needed
PLACES = [name for layer in LAYERS for name in layer]


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_import_uses_no_network_and_no_extra() -> None:
    code = f"""
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the import opened a connection")
socket.socket.connect = refuse
socket.create_connection = refuse
import compactnets, timm
assert len(timm.list_models("menet*")) == 16, timm.list_models("menet*")
assert timm.list_models("muffnet*") == ["muffnet_x0_5", "muffnet_x1_0", "muffnet_x1_5"]
loaded = [name for name in {EXTRAS + HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    done = _run(code)
    assert done.returncode == 0, done.stderr


def test_every_module_imports_without_the_extras() -> None:
    modules = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for package in ("compactnets", "compactnets_cli")
        for path in sorted((ROOT / "src" / package).rglob("*.py"))
        if path.name != "__main__.py"
    ]
    code = f"""
import importlib, sys
for name in {EXTRAS!r}:
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = _run(code)
    assert done.returncode == 0, done.stderr


MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path.parent != SOURCE or not path.name.startswith("__")
}


@functools.cache
def _imports(module: str) -> set[str]:
    """The modules of the package that a module imports anywhere, inside its functions too, without ``compactnets.``."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("compactnets."):
            name = node.module.removeprefix("compactnets.")
            inner = {f"{name}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= inner if len(inner) == len(node.names) else {name, *inner}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("compactnets.") for alias in node.names if alias.name.startswith("compactnets.")
            }
    return found


def _layer(module: str) -> int:
    place = max((name for name in PLACES if module == name or module.startswith(f"{name}.")), key=len)
    return next(index for index, layer in enumerate(LAYERS) if place in layer)


@pytest.mark.parametrize("module", MODULES)
def test_lower_layers_do_not_import_upper_ones(module: str) -> None:
    assert [name for name in _imports(module) if _layer(name) > _layer(module)] == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: _imports(module) & set(MODULES) - {module} for module in MODULES}
    graph = {module: found for module, found in graph.items() if not MODULES[module].name.startswith("__")}
    sorter = graphlib.TopologicalSorter({module: found & set(graph) for module, found in graph.items()})
    sorter.prepare()  # raises CycleError, which names the circle


def test_nothing_of_torch_ao_is_used() -> None:
    """It is deprecated, and what quantisation needs of it is private."""
    used = [
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(
            each.startswith("torch.ao") for each in [getattr(node, "module", None) or "", *(a.name for a in node.names)]
        )
    ]
    assert not used


def test_no_test_module_is_imported() -> None:
    """What tests share lies in helper modules: importing a test module would collect its tests twice."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        found = re.findall(r"^\s*(?:from|import) .*\btest_\w+", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert not found, f"{path.relative_to(ROOT)}: {found}"


def test_readme_commands_exist() -> None:
    """Every `compactnets VERB` of README and docs is a verb, and every option one of its options."""
    import typer

    from compactnets_cli import app

    group = typer.main.get_command(app)
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [
        line.split("#")[0].strip()
        for text in texts
        for block in re.findall(r"```sh\n(.*?)```", text.read_text(encoding="utf-8"), flags=re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("compactnets ")
    ]
    assert len(lines) >= 8
    for line in lines:
        words = line.split()[1:]
        command = group.commands[words[0]]  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            command = command.commands[words[1]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.strip("[]") for word in words if word.strip("[]").startswith("--")}
        assert used <= known, line


def test_readme_opens_with_the_two_commands() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks[0] == "python -m pip install . && compactnets quickstart\n"
    assert blocks[1] == "python -m pip install '.[dev]' && pytest\n"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    extras = [item for extra in project["optional-dependencies"].values() for item in extra]
    for requirement in [*project["dependencies"], *extras]:
        name = re.split(r"[<>=\[]", requirement)[0]
        assert name == "compactnets" or name.removeprefix("pytest-") in reasons, f"docs/dependencies.md lacks {name}"


def test_links_of_the_documents_lead_somewhere() -> None:
    for text in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", text.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (text.parent / target).exists(), f"{text.name}: {target}"


def test_text_is_read_and_written_as_utf8() -> None:
    """Whatever the locale: every file and every pipe of text says its encoding."""
    found = 0
    for path in sorted(SOURCE.parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and _opens_text(call):
                found += 1
                said = {keyword.arg for keyword in call.keywords}
                assert "encoding" in said, f"{path.name}:{call.lineno}: {ast.unparse(call)}"
    assert found > 10


def _opens_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    keywords = {keyword.arg for keyword in call.keywords}
    if name in ("run", "Popen", "check_output") and owner == "subprocess":
        return bool(keywords & {"text", "universal_newlines", "encoding"})
    if name == "read_text" and owner == "":
        return False  # compactnets.values.read_text
    others = ("os", "Image", "tarfile", "zipfile", "webbrowser", "tree")
    if name == "open" and (owner in others or "fmt" in owner or "format" in owner):
        return False
    modes = [each.value for each in call.args + [k.value for k in call.keywords] if isinstance(each, ast.Constant)]
    binary = any(isinstance(mode, str) and "b" in mode and set(mode) <= set("rwxab+") for mode in modes)
    return name in ("open", "fdopen", "read_text", "write_text") and not binary


def test_what_opens_text_is_found() -> None:
    for text in ("open(a)", "open(a, 'w')", "a.open()", "a.b().read_text()", "a.write_text('5')"):
        assert _opens_text(ast.parse(text, mode="eval").body), text  # type: ignore[arg-type]
    for text in ("open(a, 'rb')", "a.open('wb')", "os.open(a)", "read_text(a, b)", "a.close()"):
        assert not _opens_text(ast.parse(text, mode="eval").body), text  # type: ignore[arg-type]
