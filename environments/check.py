"""Run both commands of the README on a set of dependency versions, in a virtual environment of its own.

    python environments/check.py SET [PYTEST ARGUMENT ...]

    locked       the versions of environments/locked.txt, on which this repository is known to pass
    newest       what the ranges of pyproject.toml resolve to today
    torch-2.11   the same, with the oldest PyTorch and torchvision of the ranges
    lowest       the lowest version of everything that pyproject.toml names; what is installed must be that version,
                 so that a lower bound is one that was tried

The environment lies in build/environments/SET and is made anew by each run. ``--install-only`` stops before the tests,
``--lock`` writes what is installed to environments/locked.txt after they have passed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "environments" / "locked.txt"
FOLDER = ROOT / "build" / "environments"
SETS = ("locked", "newest", "torch-2.11", "lowest")
BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[.*\])?>=([0-9][0-9A-Za-z.]*)")
LOCK_HEAD = """\
# The versions on which this repository is known to pass, for CPython {python} on Linux: constraints for pip.
# To write it anew: python environments/check.py newest --lock
"""


def run(*command: str | Path) -> None:
    """Run a command in the repository, and end with its exit code where it fails."""
    print("+", *command, flush=True)
    # as in an activated environment: ExecuTorch calls the program flatc of its own by name
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    done = subprocess.run(list(map(str, command)), cwd=ROOT, check=False, env={**os.environ, "PATH": path})
    if done.returncode:
        raise SystemExit(done.returncode)


def output(*command: str | Path) -> str:
    """Return what a command prints."""
    return subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True, text=True).stdout


def new_environment(name: str) -> Path:
    """Make an empty virtual environment and return its interpreter."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "venv", folder)
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def lower_bounds() -> dict[str, str]:
    """Return the lowest version of everything that pyproject.toml names, but for those of extras outside [dev].

    environments/site.py tries the bounds of `docs`; those of `litert` are what .ci/run installs.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name not in ("docs", "litert")}
    named = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    return {match[1]: match[2] for line in named if (match := BOUND.match(line))}


def install(name: str, python: Path, extras: str = "") -> None:
    """Install the package with ``extras`` (``[dev]``), on the versions of a set."""
    pip = (python, "-m", "pip", "install", "--quiet")
    if name == "lowest":
        run(*pip, "uv>=0.7")  # it resolves only: pip installs, with the settings of this machine
        requirements = FOLDER / "lowest.txt"
        lowest = ("pip", "compile", "--quiet", "--resolution=lowest-direct", "--no-header", "--no-annotate")
        extra = [f"--extra={extras.strip('[]')}"] if extras else []
        run(python, "-m", "uv", *lowest, f"--python={python}", *extra, "-o", requirements, "pyproject.toml")
        run(*pip, "-r", requirements)
        run(*pip, "--no-deps", ".")
        return
    pins = {"locked": ("-c", LOCK), "torch-2.11": ("torch==2.11.*", "torchvision==0.26.*")}
    run(*pip, *pins.get(name, ()), f".{extras}")


def check_bounds(python: Path) -> None:
    """End with an error unless every dependency is installed in the version that its lower bound names."""
    installed = versions(python)
    wrong = [
        f"{name}>={bound} was resolved to {installed.get(normalized(name))}"
        for name, bound in lower_bounds().items()
        if not re.fullmatch(re.escape(bound) + r"(\.0)*(\.post\d+)?", installed.get(normalized(name), "none"))
    ]
    if wrong:
        raise SystemExit("these lower bounds cannot be installed: raise them\n  " + "\n  ".join(wrong))


def versions(python: Path) -> dict[str, str]:
    """Return name and version of all that is installed but the package itself."""
    lines = output(python, "-m", "pip", "list", "--format=freeze", "--exclude=compactnets").split()
    return {normalized(name): version for name, _, version in (line.partition("==") for line in lines)}


def normalized(name: str) -> str:
    """Return a distribution's name as PEP 503 normalises it: pip writes some with ``_``, others with ``-``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def write_lock(python: Path) -> None:
    """Write what is installed as constraints."""
    tools = {"pip", "setuptools", "uv", "wheel"}
    number = "{}.{}".format(*sys.version_info)
    # PyTorch's builds differ by what follows the plus sign, its interface does not
    lines = [f"{name}=={version.partition('+')[0]}" for name, version in versions(python).items() if name not in tools]
    LOCK.write_text(LOCK_HEAD.format(python=number) + "\n".join(sorted(lines)) + "\n", encoding="utf-8")


def main() -> None:
    """Build an environment and run the tests in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--install-only", action="store_true", help="stop before the tests")
    parser.add_argument("--lock", action="store_true", help="write environments/locked.txt when they have passed")
    chosen, arguments = parser.parse_known_args()
    python = new_environment(chosen.set)
    install(chosen.set, python)
    if not chosen.install_only:
        with tempfile.TemporaryDirectory() as folder:
            run(python, "-m", "compactnets", "quickstart", "--output", Path(folder) / "quickstart")
    install(chosen.set, python, "[dev]")
    if chosen.set == "lowest":
        check_bounds(python)
    run(python, "-m", "pip", "list", "--format=freeze")
    if not chosen.install_only:
        run(python, "-m", "pytest", *arguments)
        if chosen.set == "lowest":
            run(sys.executable, ROOT / "environments" / "site.py", "--lowest")
    if chosen.lock:
        write_lock(python)


if __name__ == "__main__":
    main()
