"""The command line, as in the tests of its own."""

from ..cli.conftest import run

__all__ = ["run"]
