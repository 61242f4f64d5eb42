"""What is built and installed: the page of `compactnets web`, the commit, licences, and metadata without dead links."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from compactnets.errors import InputError
from compactnets.source import build_info, checkout_commit
from compactnets.web import page_build
from compactnets.web.page import find_page
from compactnets.web.page_build import PageError

ROOT = Path(__file__).parents[1]
NODE = "print('v22.12.0')"
# in place of npm: it writes down what it was asked, and a page that says so
NPM = """
import pathlib, sys
with open(pathlib.Path(__file__).with_name("asked"), "a") as asked:
    print(sys.argv[1], file=asked)
if sys.argv[1] == "ci":
    pathlib.Path("node_modules").mkdir(exist_ok=True)
    pathlib.Path("node_modules/.package-lock.json").write_text("{}")
else:
    page = pathlib.Path(sys.argv[-1])
    page.mkdir()
    (page / "index.html").write_text("<!doctype html>")
"""
NO_NETWORK = (
    "import sys; sys.exit('npm error code ENOTFOUND\\nnpm error network request to the registry failed\\nnpm error x')"
)


def command(folder: Path, name: str, code: str) -> None:
    """Put a program into a folder of programs."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with git and no Node.js, to be the whole PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    git = shutil.which("git")
    assert git is not None
    (folder / "git").symlink_to(git)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a fresh clone holds, committed, and files of the user's that belong to nobody else."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout: what belongs to it is asked of git")
    folder = tmp_path / "clone"
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "all")
    for name in ("photos/train/cat.jpg", "web/node_modules/left-pad/index.js"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine", encoding="utf-8")
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def build(folder: Path, programs: Path, target: str = "wheel") -> tuple[Path, list[str]]:
    """Build and return the file and the lines that the build says of this package."""
    pytest.importorskip("hatchling", reason="hatchling builds the package: python -m pip install 'compactnets[dev]'")
    out = folder / "dist"
    shutil.rmtree(out, ignore_errors=True)
    line = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    environment = {**os.environ, "PATH": str(programs)}
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (file,) = out.iterdir()
    return file, [line for line in done.stderr.splitlines() if line.startswith("compactnets: ")]


def unpack(file: Path, folder: Path) -> Path:
    if file.suffix == ".whl":
        zipfile.ZipFile(file).extractall(folder)
        return folder
    with tarfile.open(file) as archive:
        # a filter is known from Python 3.11.4 on
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return next(folder.iterdir())


def held(file: Path) -> list[str]:
    """The names in a wheel or an sdist."""
    if file.suffix == ".whl":
        return zipfile.ZipFile(file).namelist()
    with tarfile.open(file) as archive:
        return archive.getnames()


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_a_wheel_without_node_says_so_and_so_does_the_installed_command(
    clone: Path, programs: Path, tmp_path: Path
) -> None:
    wheel, (line,) = build(clone, programs)
    assert "Node.js 20.19" in line
    assert "node and npm are not on the PATH" in line
    installed = unpack(wheel, tmp_path / "site-packages") / "compactnets"
    assert not (installed / "web" / "page").exists()
    with pytest.raises(InputError) as failure:
        find_page(installed / "web" / "page", tmp_path / "nothing")
    for part in ("node and npm are not on the PATH", "python -m pip install --no-deps ."):
        assert part in str(failure.value)
    assert "\n" not in str(failure.value)

    names = zipfile.ZipFile(wheel).namelist()
    assert {"compactnets/py.typed", "compactnets_cli/py.typed"} <= set(names)
    assert {name.removeprefix("src/") for name in git(clone, "ls-files", "src").splitlines()} <= set(names)
    assert not [name for name in names if "node_modules" in name or "photos" in name]
    assert build_info(installed)["commit"] == git(clone, "rev-parse", "--short", "HEAD")
    notices = [name for name in names if "/licenses/" in name]
    assert any("Copyright (c) Microsoft Corporation" in zipfile.ZipFile(wheel).read(name).decode() for name in notices)
    check_metadata(metadata(wheel), notices)


def check_metadata(told: Message, notices: list[str]) -> None:
    for field in ("Author", "License-Expression", "Requires-Python", "Summary"):
        assert told[field], field
    assert len(told.get_all("License-File", [])) == len(notices) == 2
    assert "Typing :: Typed" in told.get_all("Classifier", [])
    urls = [url.rpartition(", ")[2] for url in told.get_all("Project-URL", [])]
    assert urls
    assert all(url.startswith("https://") for url in urls)
    text = str(told.get_payload())
    assert told["Description-Content-Type"] == "text/markdown"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.compile(r"^```.*?^```$", flags=re.DOTALL | re.MULTILINE)
    assert code.findall(text) == code.findall(readme), "commands stay as they are"
    links = [re.findall(r"\]\(([^)\s]+)", code.sub("", each)) for each in (text, readme)]
    assert all(link.startswith("https://") for link in links[0])
    files = {link.partition("#")[0] for link in links[1] if not link.startswith("https://")}
    assert len(files) > 10
    for file in files:
        assert f"(`{file}`)" in text
        assert (ROOT / file).is_file(), f"README names {file}"


def test_a_page_is_built_once_and_travels_by_the_sdist(clone: Path, programs: Path, tmp_path: Path) -> None:
    with_node = tmp_path / "with-node"
    shutil.copytree(programs, with_node, symlinks=True)
    command(with_node, "node", NODE)
    command(with_node, "npm", NPM)

    def asked() -> list[str]:
        file = with_node / "asked"
        lines = file.read_text(encoding="utf-8").split() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def page(file: Path) -> bool:
        names = held(file)
        assert not [name for name in names if "node_modules" in name or "photos" in name]
        return any(name.endswith("compactnets/web/page/index.html") for name in names)

    wheel, _ = build(clone, with_node)
    assert page(wheel)
    assert asked() == ["ci", "run"]
    sdist, lines = build(clone, with_node, "sdist")
    assert page(sdist)
    assert asked() == lines == []
    below = {name.partition("/")[2] for name in held(sdist)}
    assert set(git(clone, "ls-files").splitlines()) <= below, "add what is new to [tool.hatch.build.targets.sdist]"

    unpacked = unpack(sdist, tmp_path / "unpacked")
    again, lines = build(unpacked, programs)
    assert page(again)
    assert lines == []
    commit = git(clone, "rev-parse", "--short", "HEAD")
    assert build_info(unpack(again, tmp_path / "site-packages") / "compactnets") == {"commit": commit, "page": None}

    source = clone / "web" / "src" / "main.ts"
    source.write_text(source.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    os.utime(source, (later := source.stat().st_mtime + 5, later))
    wheel, (line,) = build(clone, programs)
    assert page(wheel), "better an old page than none"
    assert "older than its sources" in line
    assert record(wheel)["commit"] == commit + "+", "a file differs from the commit"
    build(clone, with_node)
    assert asked() == ["run"]


def record(wheel: Path) -> dict[str, Any]:
    return dict(json.loads(zipfile.ZipFile(wheel).read("compactnets/build.json")))


def test_npm_that_fails_or_no_git_does_not_fail_the_build(clone: Path, programs: Path) -> None:
    command(programs, "node", NODE)
    command(programs, "npm", NO_NETWORK)
    shutil.rmtree(clone / ".git")
    wheel, lines = build(clone, programs)
    assert len(lines) == 3, lines
    assert "the commit is not known" in lines[0]
    assert "'npm ci' failed: npm error network request to the registry failed" in lines[2]
    assert record(wheel)["commit"] == "unknown"
    assert "npm ci" in record(wheel)["page"]
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "node_modules" in name]


def test_an_editable_install_runs_from_the_checkout(clone: Path, programs: Path) -> None:
    wheel, lines = build(clone, programs, "wheel:editable")
    assert lines == []
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("compactnets/")]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({}, "node and npm are not on the PATH"),
        ({"node": NODE}, "npm is not on the PATH"),
        ({"npm": NPM}, "node is not on the PATH"),
        ({"node": "print('v18.20.1')", "npm": NPM}, "node is v18.20.1"),
        ({"node": "print('v20.18.0')", "npm": NPM}, "node is v20.18.0"),
        ({"node": "print('hello')", "npm": NPM}, "node is hello"),
        ({"node": "raise SystemExit(1)", "npm": NPM}, "'node --version' failed"),
        ({"node": "print('v20.19.0')", "npm": NPM}, None),
        ({"node": "print('v100.0.0')", "npm": NPM}, None),
    ],
)
def test_what_is_missing(
    found: dict[str, str], told: str | None, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in found.items():
        command(programs, name, code)
    monkeypatch.setenv("PATH", str(programs))
    missing = page_build.missing_program()
    assert missing is None if told is None else told in (missing or "")


@pytest.mark.parametrize(
    ("npm", "told"),
    [
        (NO_NETWORK, "network request to the registry failed"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import time; time.sleep(60)", "did not end within"),
        (NPM.replace("page.mkdir()", "sys.exit('error: out of memory')"), "'npm run build' failed: error: out of"),
    ],
)
def test_a_build_that_fails_leaves_the_page_as_it_was(
    npm: str, told: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(programs, "node", NODE)
    command(programs, "npm", npm)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(page_build, "TIMEOUT", 1)
    web, page = tmp_path / "web", tmp_path / "page"
    for folder in (web, page):
        folder.mkdir()
    (web / "package-lock.json").write_text("{}", encoding="utf-8")
    (page / "index.html").write_text("before", encoding="utf-8")
    with pytest.raises(PageError, match=re.escape(told)) as failure:
        page_build.build(web, page)
    assert "\n" not in str(failure.value)
    assert str(tmp_path) not in str(failure.value), "the message may be kept in a wheel"
    assert (page / "index.html").read_text(encoding="utf-8") == "before"
    assert [path.name for path in (web / "node_modules").glob(".page-*")] == []


def test_the_commit_is_that_of_the_checkout_itself(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(clone, "rev-parse", "--short", "HEAD")
    assert checkout_commit(clone) == commit
    assert checkout_commit(clone / "src") is None, "a folder inside another checkout"
    monkeypatch.setenv("GIT_DIR", str(clone / "nowhere"))
    assert checkout_commit(clone) == commit, "as inside a hook of another repository"
    monkeypatch.delenv("GIT_DIR")
    (clone / "README.md").write_text("other", encoding="utf-8")
    assert checkout_commit(clone) == commit, "no file of the package"
    (clone / "src" / "new.py").write_text("", encoding="utf-8")
    assert checkout_commit(clone) == commit + "+"
    monkeypatch.setenv("PATH", "")
    assert checkout_commit(clone) is None


@pytest.mark.slow
def test_pip_and_npm_build_a_wheel_whose_command_makes_a_page(clone: Path, tmp_path: Path) -> None:
    """The real thing, as `pip install .` does it, and installed beside the dependencies that are there."""
    if missing := page_build.missing_program():
        pytest.skip(missing)
    pytest.importorskip("onnxruntime")
    shutil.rmtree(clone / "web" / "node_modules")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(tmp_path / "site"), str(clone)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line = [sys.executable, "-m", "compactnets", "web", "--checkpoint", "muffnet_x0_5.cifar10", "--no-serve"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PATH": "/nowhere"}
    output = tmp_path / "page"
    command = [*line, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list((output / "assets").glob("*.wasm"))
    assert (output / "licenses.txt").read_text(encoding="utf-8").count("Microsoft Corporation") == 1
    code = "from compactnets.environment import commit; print(commit())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    assert done.stdout.strip() == git(clone, "rev-parse", "--short", "HEAD")
