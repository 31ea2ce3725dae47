"""8-bit quantization of the ONNX graphs: calibration, rounding, mixed precision, graph passes."""
