"""Sparsity patterns within the weights that stay: 2:4 for TensorRT, other N:M, vectors, blocks, kernels.

`run.sparsify` is the way in. `layers` finds the products and follows a constant's numbers from the file to them, `patterns` says
what may stay, `methods` choose, `masked` writes zeros while a weight is read, `permutation` orders
channels so that more stays. A target (`tensorrt`) says what it can use.
"""

from onnxprune.settings import Sparsity
from onnxprune.sparsity.apply import SparseLayer, Sparsified, sparsify
from onnxprune.sparsity.pattern_check import Checked, check_pattern

__all__ = ["Checked", "SparseLayer", "Sparsified", "Sparsity", "check_pattern", "sparsify"]
