"""Export a trained model to two ONNX graphs that caption without torch, and quantize them to 8 bits."""
