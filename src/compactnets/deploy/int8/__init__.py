"""int8: quantised networks, their ranges, rounding and scales."""

from compactnets.deploy.int8.steps import Settings

__all__ = ["Settings"]
