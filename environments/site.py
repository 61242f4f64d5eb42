"""Build the documentation site from docs/ into build/site; a warning, such as a dead link, is an error.

    python environments/site.py [--installed | --lowest]

The generator is the extra ``docs`` of pyproject.toml, in an environment of its own (build/environments/site) and in the
versions of environments/locked-docs.txt: it reads docstrings without importing the package, which need not be
installed. Where one of the locked versions cannot be installed (another Python, an index that dropped it), it takes the
newest. ``--installed`` uses the environment that runs this instead. ``--lowest`` takes the lowest versions that
pyproject.toml allows. ``--lock`` writes down what is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "environments" / "locked-docs.txt"
FOLDER = ROOT / "build" / "environments" / "site"
SITE = ROOT / "build" / "site"
HEAD = """\
# The versions that the documentation site is built with: constraints for pip.
# To write it anew: python environments/site.py --lock
"""


def run(*command: str | Path) -> None:
    """Run a command in the repository, and end with its exit code where it fails."""
    if code := exit_code(*command):
        raise SystemExit(code)


def exit_code(*command: str | Path) -> int:
    """Run a command in the repository, and return its exit code."""
    print("+", *command, flush=True)
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(list(map(str, command)), cwd=ROOT, check=False, env=environment).returncode


def install(locked: bool, lowest: bool) -> Path:
    """Make a fresh environment with the extra ``docs`` alone, and return its interpreter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.rmtree(FOLDER, ignore_errors=True)
    run(sys.executable, "-m", "venv", FOLDER)
    python = FOLDER / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    tools = [each.replace(">=", "==") if lowest else each for each in project["optional-dependencies"]["docs"]]
    pip = (python, "-m", "pip", "install", "--quiet")
    # --dry-run: finds out whether the versions are still to be had, and nothing else
    if locked and exit_code(*pip, "--dry-run", "--constraint", LOCK, *tools):
        print(f"the versions of {LOCK.name} cannot be installed here: taking the newest", flush=True)
        locked = False
    run(*pip, *(("--constraint", LOCK) if locked else ()), *tools)
    return python


def write_lock(python: Path) -> None:
    """Write down what is installed."""
    command = [python, "-m", "pip", "list", "--format=freeze", "--exclude=pip", "--exclude=setuptools"]
    found = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    LOCK.write_text(HEAD + "".join(sorted(f"{line}\n" for line in found.lower().split())), encoding="utf-8")


def pages_without_text(site: Path) -> list[str]:
    """Return the names that the reference should have text of and has not."""
    asked = re.findall(r"^::: (\S+)", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    page = (site / "reference" / "index.html").read_text(encoding="utf-8")
    return [name for name in asked if f'id="{name}"' not in page]


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--installed", action="store_true", help="use the environment that runs this")
    which.add_argument("--lowest", action="store_true", help="the lowest versions that pyproject.toml allows")
    which.add_argument(
        "--lock", action="store_true", help="resolve anew, and write the versions down if the site builds"
    )
    chosen = parser.parse_args()
    python = Path(sys.executable) if chosen.installed else install(not (chosen.lock or chosen.lowest), chosen.lowest)
    shutil.rmtree(SITE, ignore_errors=True)
    run(python, "-m", "zensical", "build", "--strict", "--clean")
    if missing := pages_without_text(SITE):
        raise SystemExit(f"docs/reference.md names what has no docstring in the site: {', '.join(missing)}")
    if chosen.lock:
        write_lock(python)
    print(f"built {SITE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
