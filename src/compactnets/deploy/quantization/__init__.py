"""int8: from a trained network to an artifact that loses little."""

from compactnets.deploy.quantization.post_training import quantize
from compactnets.deploy.quantization.steps import Settings

__all__ = ["Settings", "quantize"]
