"""Quantisation to int8 after training: equalise, calibrate, round, correct, compare."""

from compactnets.deploy.quantization.post_training import Settings, quantize

__all__ = ["Settings", "quantize"]
