"""From pictures of digits to predictions, with ONNX Runtime."""
