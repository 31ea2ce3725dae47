"""Captioners published by others as ONNX graphs, run as they are: one module for each family of models."""
