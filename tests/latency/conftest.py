"""Artifacts of the small network, as in the tests of the formats."""

from ..deploy.conftest import artifact, written

__all__ = ["artifact", "written"]
