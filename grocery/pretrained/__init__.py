"""Networks that others trained, from a package of weights to an ONNX file."""
