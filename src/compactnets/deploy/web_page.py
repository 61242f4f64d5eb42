"""The built page: where it lies, and how it is built in a checkout.

Its sources are in ``web/``, its built files in this package's ``page/``, which a wheel has. Only whoever changes the
page needs Node.js.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from compactnets.console import say
from compactnets.errors import InputError

PAGE = Path(__file__).parent / "page"
WEB = Path(__file__).parents[3] / "web"  # beside src/, where the package runs from a checkout
SOURCES = ("index.html", "package-lock.json", "tsconfig.json", "vite.config.ts", "public", "src")


def find_page(page: Path = PAGE, web: Path = WEB) -> Path:
    """Return the folder of the built page; in a checkout it is built where it is missing or older than its sources.

    Raises:
        InputError: there is none and it cannot be built here; the message says what to install or run.
    """
    built = (page / "index.html").is_file()
    sources = (web / "package-lock.json").is_file()
    if built and not (sources and _newest(web) > (page / "index.html").stat().st_mtime):
        return page
    if not sources:
        raise InputError(
            "this installation has no built page: in a checkout run 'npm ci && npm run build' in web/, then install it"
        )
    if shutil.which("npm") is not None:
        build_page(web, page)
    elif built:
        say(f"the page is older than {web}, and npm, which would build it, is not installed")
    else:
        raise InputError(f"the page in {web} is not built: install Node.js 20 or newer with npm")
    return page


def build_page(web: Path, page: Path) -> None:
    """Build the page with npm and Vite, from the versions in ``package-lock.json``.

    Raises:
        InputError: npm or the build failed; the message has its last line.
    """
    say("building the page")
    installed = web / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < (web / "package-lock.json").stat().st_mtime:
        _npm(web, "ci")
    _npm(web, "run", "build", "--", "--outDir", str(page))


def _npm(web: Path, *arguments: str) -> None:
    command = ["npm", *arguments]
    done = subprocess.run(command, cwd=web, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
        reason = lines[0] if lines else f"exit code {done.returncode}"
        raise InputError(f"'{' '.join(command)}' failed in {web}: {reason}")


def _newest(web: Path) -> float:
    """The time when a source of the page changed last."""
    paths = [path for name in SOURCES for path in (web / name, *(web / name).rglob("*")) if path.is_file()]
    return max(path.stat().st_mtime for path in paths)
