"""Locate the built page, or build it.

Its sources are in ``web/``, its built files in this package's ``page/``. Installing from source builds it
(``hatch_build.py``) if Node.js is available, and so does the first ``compactnets web`` in a checkout.
"""

from __future__ import annotations

from pathlib import Path

from compactnets.console import say
from compactnets.errors import InputError
from compactnets.source import build_info
from compactnets.web.page_build import (
    PageError,
    build,
    has_sources,
    is_built,
    is_current,
    missing_program,
)

PAGE = Path(__file__).parent / "page"
WEB = Path(__file__).parents[3] / "web"  # beside src/, if the package runs from a checkout
INSTALL = "python -m pip install --no-deps ."


def find_page(page: Path = PAGE, web: Path = WEB) -> Path:
    """Return the folder of the built page; in a checkout, build it if it is missing or outdated.

    Raises:
        InputError: there is none and it cannot be built here; the message says why, and what to install or run.
    """
    if not has_sources(web):
        if is_built(page):
            return page
        reason = build_info(page.parents[1]).get("page")
        why = f", because it was not built with the package: {reason}" if reason else ""
        raise InputError(
            f"this installation has no web page{why}; with Node.js 20.19 or newer and npm on the PATH, "
            f"run '{INSTALL}' in the folder of the sources, which builds it"
        )
    if is_current(page, web):
        return page
    if is_built(page) and (missing := missing_program()):
        say(f"the page is older than its sources in {web}: {missing}")
        return page
    say("building the page")
    try:
        build(web, page)
    except PageError as error:
        raise InputError(f"the page in {web} is not built: {error}") from None
    return page
