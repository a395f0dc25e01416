"""Initializers that a file stores as what is not zero, and where: dense for whoever reads them, sparse again when written."""

from __future__ import annotations

import math

import numpy as np
from onnx import SparseTensorProto, numpy_helper

from onnxprune.graph.weights import Array, ArrayWeight, Weight, count_packed_bytes, dtype_of

INDEX_BYTES = 8  # of one index into the flattened tensor


class SparseWeight:
    """The data of a SparseTensorProto, made dense when it is read."""

    def __init__(self, tensor: SparseTensorProto) -> None:
        self.tensor, self.data_type, self.shape = tensor, tensor.values.data_type, tuple(tensor.dims)

    @property
    def nbytes(self) -> int:
        return count_packed_bytes(self.data_type, self.shape)

    def array(self) -> Array:
        out = np.zeros(math.prod(self.shape), dtype_of(self.data_type))
        indices = numpy_helper.to_array(self.tensor.indices)
        if indices.ndim == 2:  # coordinates, [n, rank]
            indices = np.ravel_multi_index(tuple(indices.T), self.shape)
        out[indices] = numpy_helper.to_array(self.tensor.values)
        return out.reshape(self.shape)

    def raw(self) -> bytes | memoryview:
        return ArrayWeight(self.array(), self.data_type).raw()


def encode(name: str, weight: Weight) -> SparseTensorProto | None:
    """The nonzero entries of a weight and their positions; None if these take no fewer bytes than the whole weight."""
    if isinstance(weight, SparseWeight):
        return weight.tensor
    flat = weight.array().reshape(-1)
    (at,) = np.nonzero(flat)
    if len(at) * (flat.itemsize + INDEX_BYTES) >= weight.nbytes:
        return None
    values = numpy_helper.from_array(flat[at], name)
    return SparseTensorProto(values=values, indices=numpy_helper.from_array(at.astype(np.int64)), dims=weight.shape)
