"""int8: the quantised form of a network, its ranges, roundings and scales."""

from compactnets.deploy.int8.steps import Settings

__all__ = ["Settings"]
