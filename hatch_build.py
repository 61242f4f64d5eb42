"""What a build of this package does besides packing files.

It builds the web page where Node.js is there, writes down the commit, and makes the README readable without a
repository around it. A page that cannot be built never fails the build: one line says why, and so does ``compactnets
web`` in the installed package, because pip shows what a build prints only with ``-v``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

PACKAGE = Path("src", "compactnets")
PAGE = PACKAGE / "web" / "page"
PACKED = ("src", "web", "hatch_build.py", "pyproject.toml")  # what decides the content of a wheel
NOTE = "> The files that this text names are in the repository and in the source distribution (`.tar.gz`)."


class BuildHook(BuildHookInterface):
    """The page and the commit, in wheels and sdists."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page where it is missing or stale, and put ``build.json`` into what is built."""
        if version == "editable":
            return  # it runs from the checkout, where `compactnets web` builds the page and git knows the commit
        root = Path(self.root)
        source = _load(root / PACKAGE / "source.py")
        commit = source.checkout_commit(root, PACKED) or source.build_info(root / PACKAGE).get("commit")
        if commit is None:
            self.app.display_warning("compactnets: the commit is not known here, reports will say 'unknown'")
        record = {"commit": commit or source.UNKNOWN, "page": self._build_page(root)}
        self._folder = tempfile.TemporaryDirectory()  # kept until the build ends
        file = Path(self._folder.name, source.BUILD)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        inside = PACKAGE if self.target_name == "sdist" else Path(PACKAGE.name)
        build_data["force_include"][str(file)] = (inside / source.BUILD).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what :meth:`initialize` wrote."""
        if version != "editable":
            self._folder.cleanup()

    def _build_page(self, root: Path) -> str | None:
        """Build the page where it has to be, and return why there is none."""
        builder = _load(root / PACKAGE / "web" / "page_build.py")
        web, page = root / "web", root / PAGE
        if builder.is_current(page, web) if builder.has_sources(web) else builder.is_built(page):
            return None
        reason = "its sources in web/ are missing"
        if builder.has_sources(web):
            if not builder.missing_program():
                self.app.display_info("compactnets: building the web page with npm")
            try:
                builder.build(web, page)
            except builder.PageError as error:
                reason = str(error)
            else:
                return None
        if builder.is_built(page):
            self.app.display_warning(f"compactnets: the web page is older than its sources: {reason}")
            return None
        self.app.display_warning(
            f"compactnets: built without the page of 'compactnets web': {reason}; "
            "to have it, mend that and install again, all else works without it"
        )
        return reason


class MetadataHook(MetadataHookInterface):
    """The README for a package index."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set ``readme``: links to files of the repository lead nowhere from an index, so they become paths."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": standalone(text)}


def standalone(text: str) -> str:
    """Return a README in which every link to a file of the repository is its text and the path of the file."""
    blocks = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    # every other block is code; links that have a scheme or lead to a heading stay
    link = re.compile(r"!?\[([^\]]*)\]\((?![a-z][a-z0-9+.-]*:|#)([^)#\s]+)[^)]*\)")
    changed = [block if number % 2 else link.sub(r"\1 (`\2`)", block) for number, block in enumerate(blocks)]
    title, _, rest = "".join(changed).partition("\n")
    return f"{title}\n\n{NOTE}\n{rest}" if changed != blocks else text


def _load(path: Path) -> ModuleType:
    """Return a module of the package by its path: the package's dependencies are not installed where it is built."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
