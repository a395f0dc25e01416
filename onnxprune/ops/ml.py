"""Operators of ai.onnx.ml: what converters of classic models write before, behind and instead of a network.

Most have no shape function in onnx, so the rules say what comes out. Source: https://onnx.ai/onnx/operators/index.html#ai-onnx-ml
"""

from __future__ import annotations

from onnx import TensorProto

from onnxprune.layout import Dim, LayoutError, concat
from onnxprune.ops.registry import Axes, Edits, New, Op, couple, same

ML = "ai.onnx.ml"
BY_FEATURE = ("offset", "scale", "imputed_value_floats", "imputed_value_int64s")


@couple("Binarizer", "CategoryMapper", "LabelEncoder", domain=ML, pointwise=True)
def look_up(op: Op) -> list[Axes | None]:
    """y = f(x), position by position."""
    return same(op)


@couple("Imputer", "Scaler", domain=ML, pointwise=True)
def scale_features(op: Op) -> list[Axes | None]:
    """y = scale * (x - offset), or a value in place of what is missing; attributes of one entry, or one for each feature.

    Shapes:  x [N, c, *s] or [c] -> y like x, float32 from a Scaler
    """
    x = op.x(0)
    features = x[min(1, len(x) - 1)]

    def change(new: New, e: Edits) -> None:
        lists = ((name, op.attr(name, [])) for name in BY_FEATURE)
        if new.moves(features):
            e.attrs |= {name: [values[i] for i in new.kept(features)] for name, values in lists if len(values) > 1}

    op.edit(change)
    return [_floats(op, x) if op.type == "Scaler" else list(x)]


@couple("Normalizer", domain=ML)
def normalizer(op: Op) -> list[Axes | None]:
    """Divide rows x [N, c] by their norm, which mixes the features."""
    x = op.x(0)
    op.mix(x[-1], "takes its norm along it")
    return [_floats(op, x)]


@couple("FeatureVectorizer", domain=ML)
def join_features(op: Op) -> list[Axes | None]:
    """Lay the features of the inputs x_i [N, c_i] end to end; their counts are written in an attribute, which follows."""
    xs = [op.x(i) for i in range(len(op.layouts))]
    if any(len(x) != 2 for x in xs):
        raise LayoutError("features that are no matrix")

    def change(new: New, e: Edits) -> None:
        if any(new.changes(x[1]) for x in xs):
            e.attrs["inputdimensions"] = [new.size(x[1]) for x in xs]

    op.edit(change)
    return [_floats(op, [op.tie_column([x[0] for x in xs]), concat(*(x[1] for x in xs))])]


@couple("LinearRegressor", "SVMRegressor", "TreeEnsemble", "TreeEnsembleRegressor", domain=ML)
def regressor(op: Op) -> list[Axes | None]:
    """x [N, c] -> y [N, targets]; what belongs to a feature stands in attributes, so features are frozen."""
    targets = op.attr("n_targets", op.attr("targets", 1))
    return [_floats(op, [_samples(op), op.plain(targets, f"a target of {op.type}")])]


@couple("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier", domain=ML)
def classifier(op: Op) -> list[Axes | None]:
    """x [N, c] -> labels [N] and scores [N, classes]; what belongs to a feature stands in attributes, so features are frozen.

    A support vector machine without probabilities has a score for each pair of classes, from three classes on.
    """
    names = ("classlabels_strings", "classlabels_ints", "classlabels_int64s")
    labels = [values for name in names if (values := op.attr(name))]
    count = max(map(len, labels), default=0)
    pairs = op.type == "SVMClassifier" and not op.attr("prob_a") and count > 2
    scores = op.plain(count * (count - 1) // 2 if pairs else count, f"a class of {op.type}")
    rows = _samples(op)
    kind = TensorProto.STRING if op.attr(names[0]) else TensorProto.INT64
    layouts: list[Axes | None] = [_typed(op, 0, kind, [rows]), _typed(op, 1, TensorProto.FLOAT, [rows, scores])]
    return layouts[: len(op.node.output)]


def _samples(op: Op) -> Dim:
    """The axis of samples, of which a vector is one; the features are frozen."""
    x = op.x(0)
    op.freeze(x[-1], f"{op.type} reads it by its attributes")
    return x[0] if len(x) > 1 else op.plain(1)


def _floats(op: Op, y: Axes) -> Axes:
    return _typed(op, 0, TensorProto.FLOAT, y)


def _typed(op: Op, j: int, kind: int, y: Axes) -> Axes:
    """The axes of output `j`, of that type, where no shape function has said it."""
    op.types[j] = kind
    return list(y)
