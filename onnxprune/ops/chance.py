"""Is a value that is equal at both samples of the trace equal at these only? A trait of operators that compute with sizes.

So it may be where dynamic sizes are compared or rounded; that is what the trace takes for granted of an operator without the trait.
Operators that move entries, or in whose results the dynamic parts cancel, are exact. A function here gets a node and the contents
of its inputs at both samples, None where they are unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from onnxprune.graph.facts import is_dynamic
from onnxprune.ops.records import Values

Inputs = Sequence[Values | None]


def never(_node: NodeProto, _ins: Inputs) -> bool:
    """Sizes that are equal at both samples are equal at all."""
    return False


def by_index(first: int = 1) -> Callable[[NodeProto, Inputs], bool]:
    """Entries are taken; the inputs from `first` on say which."""
    return lambda _node, ins: any(map(is_dynamic, ins[first:]))


def by_condition(_node: NodeProto, ins: Inputs) -> bool:
    """Where: the condition may be another at another size."""
    return is_dynamic(ins[0])


def by_type(node: NodeProto, ins: Inputs) -> bool:
    """Cast: a narrower type may lose what differs."""
    if ins[0] is None:
        return any(map(is_dynamic, ins))
    wide = [TensorProto.FLOAT, TensorProto.DOUBLE]
    wide += [] if ins[0][0].dtype.kind == "f" else [TensorProto.INT64, TensorProto.INT32]
    return is_dynamic(ins[0]) and helper.get_node_attr_value(node, "to") not in wide


def by_rounding(_node: NodeProto, ins: Inputs) -> bool:
    """Div: of integers it rounds, unless the divisor changes too."""
    if ins[0] is None:
        return any(map(is_dynamic, ins))
    return ins[0][0].dtype.kind in "iu" and is_dynamic(ins[0]) and not is_dynamic(ins[1])


def by_meeting(_node: NodeProto, ins: Inputs) -> bool:
    """Equal: could a dynamic size be equal to what it is compared with, at another size? Not to a negative number."""
    x, y = ins
    if x is None or y is None:
        return True
    (a, b), (c, d) = x, y
    try:
        return bool(np.any(((a != b) & ~((c == d) & (c < 0))) | ((c != d) & ~((a == b) & (a < 0)))))
    except ValueError:
        return True
