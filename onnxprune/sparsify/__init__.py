"""Sparsity patterns within the weights that stay: 2:4 for TensorRT, other N:M, vectors, blocks, kernels."""
