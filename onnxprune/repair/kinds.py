"""Which layers a node has: a class for each kind of product."""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.ops.records import Record
from onnxprune.repair.convolutions import Convolution, Scale, Transposed
from onnxprune.repair.linear_layers import FitLayer, Site, Unfit
from onnxprune.repair.products import MatrixProduct, Projection

RECURRENT = "recurrent"
KINDS: dict[str, Callable[[Site, Site | None], FitLayer]] = {
    "convolution": lambda site, _: Convolution(site),
    "transposed convolution": lambda site, _: Transposed(site),
    "matrix product": MatrixProduct,
    "attention": Projection,
}


def is_layer(record: Record) -> bool:
    """Does a node of that operator multiply with weights, or scale behind running statistics?"""
    return bool(record.product or record.traits.statistics)


def is_recurrent(record: Record) -> bool:
    return record.product is not None and record.product.kind == RECURRENT


def make_layer(site: Site, after: Site | None = None) -> FitLayer:
    """A node as a matrix product; `after` is the only node that reads what it makes. Raises Unfit."""
    product = site.record.product
    if product is None:
        return Scale(site)
    if product.kind not in KINDS:
        raise Unfit(f"a {product.kind} is not fitted")
    return KINDS[product.kind](site, after)
