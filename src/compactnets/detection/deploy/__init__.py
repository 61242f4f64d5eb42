"""Detectors as ONNX, checked against PyTorch before they are kept, and run again from their artifacts."""
