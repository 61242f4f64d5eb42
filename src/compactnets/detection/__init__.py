"""Object detection: both papers' detectors on any backbone that has ``feature_info``."""
