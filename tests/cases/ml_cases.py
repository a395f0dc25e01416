"""Cases: operators of ai.onnx.ml."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, helper

from cases.base import Built, Draw, Net, any_mid, case

ML = "ai.onnx.ml"


def some(d: Draw, c: int) -> list[float]:
    """A value for all features, or one for each."""
    return [0.5 + 0.25 * i for i in range(c if d.flag() else 1)]


@case("Scaler", "Imputer", domain=ML, examples=6)
def by_feature(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net, "flat")
    values = some(d, m.c)
    attrs: dict[str, Any] = {"offset": values, "scale": values[::-1]}
    if op == "Imputer":
        m.x, attrs = net.op("Relu", m.x), {"imputed_value_floats": values, "replaced_value_float": 0.0}
    return m.end(net.op("Relu", net.op(op, m.x, domain=ML, **attrs)), exact=True)


@case("Normalizer", domain=ML, examples=4)
def normalizer(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net, "flat")
    return m.end(net.op(op, m.x, domain=ML, norm=d.pick("L1", "L2")), exact=False)


@case("Binarizer", domain=ML, examples=2)
def binarizer(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net, "flat")
    return m.end(net.op(op, m.x, domain=ML, threshold=0.1), exact=True)


@case("LabelEncoder", "CategoryMapper", domain=ML, examples=3)
def look_up(d: Draw, op: str) -> Built:
    net = Net(d)
    net.versions[ML] = 2
    m = any_mid(net, "flat")
    y = net.op("Cast", m.x, to=TensorProto.INT64)
    if op == "CategoryMapper":
        y = net.op(op, y, domain=ML, cats_int64s=[0, 1], cats_strings=["a", "b"], default_string="c")
        y = net.op(op, y, domain=ML, cats_int64s=[2, 5], cats_strings=["a", "b"], default_int64=9)
        y = net.to_float(y)
    else:
        y = net.op(op, y, domain=ML, keys_int64s=[0, 1], values_floats=[0.5, 2.0], default_float=1.0)
    return m.end(y, exact=True)


@case("FeatureVectorizer", domain=ML, examples=3)
def join_features(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net, "flat")
    y = net.op(op, m.x, m.again("b"), domain=ML, inputdimensions=[m.c, m.c])
    m.close(y, 2 * m.c)
    return net.done(m.made, ("b.weight", 0), m.used, groups=2, exact=True)


TREE = {
    "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [2, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.1, 0.0, 0.0], "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "LinearRegressor": {"coefficients": [0.5] * 12, "intercepts": [0.1, 0.2], "targets": 2},
    "SVMRegressor": {"coefficients": [0.7, -0.7], "support_vectors": [0.3] * 12, "n_supports": 2, "rho": [0.2]},
    "TreeEnsembleRegressor": {
        "n_targets": 2, "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 1],
        "target_weights": [1.0, 2.0], **TREE,
    },
    "LinearClassifier": {
        "coefficients": [0.1 * i for i in range(18)], "intercepts": [0.1, 0.2, 0.3], "classlabels_ints": [0, 1, 2]
    },
    "SVMClassifier": {
        "coefficients": [0.5] * 12, "support_vectors": [0.1 * i for i in range(24)], "vectors_per_class": [1] * 4,
        "rho": [0.1] * 6, "classlabels_ints": [0, 1, 2, 3],
    },
    "TreeEnsembleClassifier": {
        "class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 1], "class_weights": [1.0, 2.0],
        "classlabels_int64s": [0, 1], **TREE,
    },
}  # fmt: skip
KERNEL = {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0]}
MADE = {
    "LinearRegressor": 2, "SVMRegressor": 1, "TreeEnsembleRegressor": 2, "LinearClassifier": 3, "SVMClassifier": 6,
    "TreeEnsembleClassifier": 2,
}  # fmt: skip


@case(*MODELS, domain=ML, examples=2)
def classic_model(d: Draw, op: str) -> Built:
    """Its features are frozen; the network that reads what it makes is pruned."""
    net = Net(d)
    x = net.input("input", "N", 6)
    x = net.op("Relu", net.gemm(x, "a", 6, 6))
    attrs = MODELS[op] | (KERNEL if op.startswith("SVM") else {})
    scores = net.ops(op, x, outs=2 if op.endswith("Classifier") else 1, domain=ML, **attrs)[-1]
    y = net.op("Relu", net.gemm(scores, "b", 5, MADE[op]))
    net.out(net.gemm(y, "z", 3, 5))
    return net.done(("b.weight", 0), ("z.weight", 1), frozen=[("a.weight", 0)], exact=True)


@case("TreeEnsemble", domain=ML, examples=1)
def tree_ensemble(d: Draw, op: str) -> Built:
    net = Net(d)
    net.versions[ML] = 5
    x = net.op("Relu", net.gemm(net.input("input", "N", 6), "a", 6, 6))
    y = net.op(
        op, x, domain=ML, n_targets=2, tree_roots=[0], nodes_featureids=[2], nodes_falseleafs=[1], nodes_falsenodeids=[1],
        nodes_trueleafs=[1], nodes_truenodeids=[0], leaf_targetids=[0, 1],
        nodes_modes=helper.make_tensor("m", TensorProto.UINT8, [1], [0]),
        nodes_splits=helper.make_tensor("s", TensorProto.FLOAT, [1], [0.1]),
        leaf_weights=helper.make_tensor("l", TensorProto.FLOAT, [2], [1.0, 2.0]),
    )  # fmt: skip
    net.out(net.gemm(net.op("Relu", net.gemm(y, "b", 5, 2)), "z", 3, 5))
    return net.done(("b.weight", 0), ("z.weight", 1), frozen=[("a.weight", 0)], exact=True)
