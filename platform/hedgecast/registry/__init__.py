"""Bundles, ONNX graphs and the model registry."""
