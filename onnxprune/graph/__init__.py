"""ONNX files and graphs: load, save, weights, shapes, traces, and edits of nodes."""
