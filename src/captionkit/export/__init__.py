"""Export: a trained model becomes two ONNX graphs that caption without torch."""
