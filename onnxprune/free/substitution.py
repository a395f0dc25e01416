"""Substitution of inputs in a product: constant columns move into its sums, multiples are added up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnxprune.axes import Axis, Var
from onnxprune.free.slices import GONE, Slices
from onnxprune.graph.view import read_attribute
from onnxprune.graph.weights import Array
from onnxprune.ops.linear import CONVOLUTION, TRANSPOSED
from onnxprune.ops.records import Operand, Product
from onnxprune.signals import sort_by_channel


def take_channel_rows(array: Array, axis: int, layout: Axis, v: Var) -> Array:
    """The entries of an array for each channel along an axis, [n, k]."""
    array = np.moveaxis(array, axis, 0)
    if layout is not v:
        array = array[sort_by_channel(layout.owner(v))]
    return array.reshape(v.size, -1)


def find_positions(layout: Axis, v: Var) -> Array:
    """Where the channels are along an axis, [n, m]."""
    if layout is v:
        return np.arange(v.size)[:, None]
    return sort_by_channel(layout.owner(v)).reshape(v.size, -1)


def find_unread(array: Array, axis: int) -> Array:
    """Which positions of an axis have nothing but zeros, [n]."""
    view = array.reshape(math.prod(array.shape[:axis]), array.shape[axis], math.prod(array.shape[axis + 1 :]))
    unread = (view[:1] == 0).all(axis=(0, 2))
    some = np.flatnonzero(unread)
    if len(some):
        unread[some] = (view[:, some] == 0).all(axis=(0, 2))
    return np.asarray(unread)


def keeps_constants(node: NodeProto, product: Product, kernel: int) -> bool:
    """Do all places of the output sum over as much of a constant input? Where zeros are put around it the border does not."""
    if product not in (CONVOLUTION, TRANSPOSED):
        return True
    even = not any(read_attribute(node, "pads", ())) and read_attribute(node, "auto_pad", "NOTSET") in (
        "NOTSET",
        "VALID",
    )
    if product is TRANSPOSED:
        return even and kernel == 1 and all(s == 1 for s in read_attribute(node, "strides", [1]))
    return even or (kernel == 1 and not any(read_attribute(node, "pads", ())))


@dataclass(frozen=True)
class Substitution:
    """For each channel the one that a consumer takes for it: x = times * x[into] + plus; `into` GONE: a constant `plus`."""

    into: Array
    times: Array
    plus: Array

    @staticmethod
    def of(slices: Slices, labels: Array, shifts: bool) -> Substitution:
        """The first channel of a label stands for all of them."""
        n = len(labels)
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        into = np.where(labels == GONE, GONE, first[inverse.reshape(-1)])
        return Substitution.into_those(slices, np.where(into == np.arange(n), np.arange(n), into), shifts)

    @staticmethod
    def into_those(slices: Slices, into: Array, shifts: bool) -> Substitution:
        """Those channels stand for others."""
        takers, sizes = np.maximum(into, 0), slices.sizes
        times = np.divide(sizes, sizes[takers], out=np.zeros(len(into)), where=(into != GONE) & (sizes[takers] != 0))
        times = np.where(into == np.arange(len(into)), 1.0, times)
        plus = (
            slices.shifts - np.where(into == GONE, 0.0, times * slices.shifts[takers])
            if shifts
            else np.zeros(len(into))
        )
        return Substitution(into, times, np.where(into == np.arange(len(into)), 0.0, plus))

    def apply(self, w: Array, where: Array, sums: Array) -> None:
        """Change the weights w [positions, ..] of channels that lie at `where` [n, m], and what is added to sums [..]."""
        moved = np.flatnonzero(self.into != np.arange(len(self.into)))
        if not len(moved):
            return
        rest = (1,) * (w.ndim - 1)
        old = w[where[moved]].astype(np.float64)  # [moved, m, ..]
        sums += (self.plus[moved].reshape(-1, 1, *rest) * old).sum(axis=(0, 1))
        taken = moved[self.into[moved] != GONE]
        at = np.searchsorted(moved, taken)
        np.add.at(w, where[self.into[taken]], self.times[taken].reshape(-1, 1, *rest) * old[at])
        w[where[moved]] = 0


def fold_operand(
    array: Array, operand: Operand, layout: Axis, known: dict[Var, Slices], shifts: bool
) -> tuple[Array, Array]:
    """The weights of a product without groups as if what it reads were said once, and what moves into its sums [outputs]."""
    (axis,) = operand.inputs
    w = np.moveaxis(array.astype(np.float64), axis, 0).copy()
    sums = np.zeros(w.shape[1:])
    for v, slices in known.items():
        Substitution.of(slices, slices.labels(shifts), shifts).apply(w, find_positions(layout, v), sums)
    kernel = tuple(k - (k > axis) for k in operand.kernel)
    return np.moveaxis(w, 0, axis), sums.sum(axis=kernel)
