"""Object detection: both papers' detectors on any backbone with ``feature_info``."""
