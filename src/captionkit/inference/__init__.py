"""Captioning without torch: model folders, ONNX graphs, decoding."""
