"""Build the web page from ``web/`` with npm, for an installation and in a checkout.

``hatch_build.py`` loads this file by path before the package is installed, so it only imports the standard library.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = ("index.html", "package-lock.json", "tsconfig.json", "vite.config.ts", "public", "src")
NODE = (20, 19)  # required by Vite, see package-lock.json
TIMEOUT = 900  # seconds for one npm command
# give up on an unresponsive package index after seconds; npm's own settings take minutes
HURRY = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000", "--no-progress")


class PageError(Exception):
    """The page cannot be built here; the message says in one line what is missing or what failed."""


def has_sources(web: Path) -> bool:
    """Whether ``web`` is the folder of the page's sources."""
    return (web / "package-lock.json").is_file()


def is_built(page: Path) -> bool:
    """Whether ``page`` holds a built page."""
    return (page / "index.html").is_file()


def is_current(page: Path, web: Path) -> bool:
    """Whether the page is built and none of its sources changed since."""
    if not is_built(page):
        return False
    paths = [path for name in SOURCES for path in (web / name, *(web / name).rglob("*")) if path.is_file()]
    return max(path.stat().st_mtime for path in paths) <= (page / "index.html").stat().st_mtime


def missing_program() -> str | None:
    """Return which of Node.js and npm is missing or too old; ``None`` if neither."""
    needed = f"Node.js {'.'.join(map(str, NODE))} or newer with npm"
    node = shutil.which("node")
    absent = [name for name, path in (("node", node), ("npm", shutil.which("npm"))) if path is None]
    if node is None or absent:
        return f"{needed} is needed, {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not on the PATH"
    try:
        found = subprocess.run(
            [node, "--version"], capture_output=True, encoding="utf-8", timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{needed} is needed, 'node --version' failed: {error}"
    numbers = re.match(r"v(\d+)\.(\d+)", found)
    if numbers is None or tuple(map(int, numbers.groups())) < NODE:
        return f"{needed} is needed, node is {found.strip() or 'of no known version'}"
    return None


def build(web: Path, page: Path) -> None:
    """Build the page from the versions in ``package-lock.json``; it is replaced completely or not at all.

    Raises:
        PageError: a program is missing, npm or the build failed, or a folder cannot be written.
    """
    if missing := missing_program():
        raise PageError(missing)
    installed = web / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < (web / "package-lock.json").stat().st_mtime:
        _npm(web, "ci", *HURRY)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".page-", dir=web / "node_modules") as scratch:
            _npm(web, "run", "build", "--", "--outDir", os.path.join(scratch, "page"))
            shutil.rmtree(page, ignore_errors=True)
            shutil.move(os.path.join(scratch, "page"), page)
    except OSError as error:
        raise PageError(f"{error.filename or page} cannot be written: {error.strerror or error}") from None


def _npm(web: Path, *arguments: str) -> None:
    shown = f"npm {' '.join(arguments[: 1 if arguments[0] == 'ci' else 2])}"
    command = [shutil.which("npm") or "npm", *arguments]  # by its path: Windows only starts npm.cmd this way
    try:
        done = subprocess.run(
            command,
            cwd=web,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PageError(f"'{shown}' did not end within {TIMEOUT // 60} minutes") from None
    except OSError as error:
        raise PageError(f"'{shown}' cannot be started: {error.strerror or error}") from None
    if done.returncode:
        raise PageError(f"'{shown}' failed: {_reason(done.stdout + done.stderr, done.returncode)}")


def _reason(output: str, code: int) -> str:
    """Return the most informative error line: npm's own, without those that only have codes."""
    lines = [line.strip() for line in output.splitlines() if "error" in line.lower()]
    telling = [line for line in lines if not re.match(r"npm (error|ERR!) (code|errno|syscall)\b", line)]
    return (telling or lines or [f"exit code {code}"])[0]
