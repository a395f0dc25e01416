"""Cases: Normalizations."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from cases.base import F32, MS, Built, Draw, Net, any_mid, case


@case("BatchNormalization", examples=6)
def batch_norm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 9, 14, 15))
    m = any_mid(net, "image", "signal", "flat")
    params = [net.weight(f"bn.{n}", m.c, scale=0.2, offset=o) for n, o in (("scale", 1), ("bias", 0), ("mean", 0))]
    var = net.init("bn.var", np.abs(net.rng.standard_normal(m.c)).astype(F32) + 0.5)
    y = net.op(op, m.x, *params, var, epsilon=1e-3)
    m.close(net.op("Relu", y))
    return net.done(m.made, ("bn.scale", 0), ("bn.bias", 0), ("bn.mean", 0), ("bn.var", 0), m.used, exact=True)


@case("InstanceNormalization", examples=4)
def instance_norm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 22))
    m = any_mid(net, "image", "signal")
    y = net.op(op, m.x, net.weight("in.scale", m.c), net.weight("in.bias", m.c))
    m.close(y)
    return net.done(m.made, ("in.scale", 0), ("in.bias", 0), m.used, exact=True)


@case("InstanceNormalization", examples=8)
def group_norm_as_exported(d: Draw, op: str) -> Built:
    """GroupNorm as Reshape + InstanceNorm + Reshape + Mul + Add: groups are exact, channels in a group mix."""
    net = Net(d, d.pick(11, 17))
    m = any_mid(net, "image", "signal", c=d.pick(6, 8))
    g = 2
    y = net.reshape(m.x, 0, g, -1)
    y = net.op(op, y, net.init("one", np.ones(g, F32)), net.init("nil", np.zeros(g, F32)))
    y = (
        net.op("Reshape", y, net.op("Shape", m.x))
        if d.flag()
        else net.reshape(y, *("0", m.c, *"23"[: m.rank - 2]), source=m.x)
    )
    y = net.op("Add", net.op("Mul", y, net.weight("gn.scale", *m.column())), net.weight("gn.bias", *m.column()))
    m.close(y)
    return net.done(m.made, ("gn.scale", 0), ("gn.bias", 0), m.used, groups=2)


@case("GroupNormalization", examples=5)
def group_norm(d: Draw, op: str) -> Built:
    net = Net(d, 21)  # onnx.checker refuses the one of opset 18, which is deprecated
    g = d.pick(2, 3, 6)
    m = any_mid(net, "image", "signal", c=6)
    y = net.op(op, m.x, net.weight("gn.scale", 6), net.weight("gn.bias", 6), num_groups=g)
    m.close(y)
    return net.done(m.made, ("gn.scale", 0), ("gn.bias", 0), m.used)


@case("GroupNorm", domain=MS, examples=4, reference=True)
def ms_group_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    g, last = d.pick(2, 3, 6), d.int(0, 1)
    m = any_mid(net, "image", c=6)
    x = net.op("Transpose", m.x, perm=[0, 2, 3, 1]) if last else m.x
    y = net.op(
        op,
        x,
        net.weight("gn.scale", 6),
        net.weight("gn.bias", 6),
        domain=MS,
        groups=g,
        channels_last=last,
        activation=0,
    )
    m.close(net.op("Transpose", y, perm=[0, 3, 1, 2]) if last else y)
    return net.done(m.made, ("gn.scale", 0), ("gn.bias", 0), m.used)


@case("SimplifiedLayerNormalization", domain=MS, examples=2, reference=True)
def ms_simplified_layer_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", "flat")
    m.close(net.op(op, m.x, net.weight("ln.scale", m.c), domain=MS, axis=-1, epsilon=1e-5))
    return net.done(m.made, ("ln.scale", 0), m.used, exact=False)


@case("LayerNormalization", examples=8)
def layer_norm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 11, 16, 17))  # ONNX Runtime's optimizer writes it below its first opset too
    m = any_mid(net, "tokens", "flat")
    ins = [net.weight("ln.scale", m.c)] + ([net.weight("ln.bias", m.c)] if d.flag() else [])
    m.close(net.op(op, m.x, *ins, axis=d.pick(-1, m.rank - 1)))
    return net.done(m.made, ("ln.scale", 0), m.used, exact=False)


@case("LayerNormalization", examples=3)
def layer_norm_of_two_axes(d: Draw, op: str) -> Built:
    net = Net(d, 17)
    x = net.op("Relu", net.linear(net.input("input", "N", 4, 6), "a", 6, 5))
    y = net.op(op, x, net.weight("ln.scale", 4, 5), net.weight("ln.bias", 4, 5), axis=d.pick(-2, 1))
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("a.weight", 1), ("ln.scale", 1), ("ln.bias", 1), ("z.weight", 0), exact=False)


@case("RMSNormalization", examples=3)
def rms_norm(d: Draw, op: str) -> Built:
    net = Net(d, 23)
    m = any_mid(net, "tokens", "flat")
    m.close(net.op(op, m.x, net.weight("ln.scale", m.c), axis=-1))
    return net.done(m.made, ("ln.scale", 0), m.used, exact=False)


@case("SimplifiedLayerNormalization", examples=3)
def simplified_layer_norm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 12, 17))
    m = any_mid(net, "tokens", "flat")
    m.close(net.op(op, m.x, net.weight("ln.scale", m.c), axis=-1, epsilon=1e-5, stash_type=1))
    return net.done(m.made, ("ln.scale", 0), m.used, exact=False)


@case("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MS, examples=5)
def skip_layer_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens")
    ins = [m.x, m.again("b"), net.weight("ln.scale", m.c)]
    if op == "SkipLayerNormalization":
        ins.append(net.weight("ln.bias", m.c))
    if d.flag():
        ins.append(net.weight("skip.bias", m.c))
    if d.flag():
        y, total = net.name("norm"), net.name("sum")
        net.nodes.append(helper.make_node(op, ins, [y, "", "", total], domain=MS, epsilon=1e-5))
        y = net.op("Add", y, total)
    else:
        y = net.op(op, *ins, domain=MS, epsilon=1e-5)
    m.close(y)
    return net.done(m.made, ("b.weight", 1), ("ln.scale", 0), m.used, exact=False)


@case("LRN", examples=3)
def lrn(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 13))
    m = any_mid(net, "image")
    y = net.op(op, m.x, size=3)
    y = net.conv(y, "b", (4, m.c, 1, 1))
    m.close(y, 4)
    return net.done(("b.weight", 0), m.used, frozen=[m.made])


@case("MeanVarianceNormalization", examples=3)
def mean_variance(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 9, 13))
    m = any_mid(net, "image")
    if net.opset < 9:  # ONNX Runtime's own, of before ONNX had it
        across = d.int(0, 1)
        return m.end(net.op(op, m.x, across_channels=across, normalize_variance=d.int(0, 1)), exact=not across)
    axes, exact = d.pick((None, True), ([0, 2, 3], True), ([1, 2, 3], False))
    return m.end(net.op(op, m.x, axes=axes), exact=exact)


@case("LpNormalization", examples=4)
def lp_norm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 22))
    m = any_mid(net)
    return m.end(net.op(op, m.x, axis=d.pick(m.axis, m.axis - m.rank), p=d.pick(1, 2)), exact=False)


@case("Softmax", "LogSoftmax", "Hardmax", examples=5)
def softmax(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 11, 13))
    m = any_mid(net, "image", "tokens")
    along = d.flag()
    if along or net.opset < 13:
        y = net.op(op, m.x, axis=m.axis if m.kind == "image" or net.opset >= 13 else -1)
        y = net.conv(y, "b", (4, m.c, 1, 1)) if m.kind == "image" else net.linear(y, "b", m.c, 4)
        m.close(y, 4)
        return net.done(m.used, frozen=[m.made])
    return m.end(net.op(op, m.x, axis=-1 if m.kind == "image" else 1), exact=True)


@case("BatchNormalization", examples=3)
def equal_statistics_shared(d: Draw, op: str) -> Built:
    """Two norms whose means and variances are one initializer, as exporters share equal vectors."""
    net = Net(d)
    x = net.input("input", "N", 3, "H", "W")
    mean, var = net.weight("mean", 4), net.init("var", np.abs(net.rng.standard_normal(4)).astype(F32) + 0.5)
    for i in range(2):
        x = net.conv(x, f"c{i}", (4, 3 if i == 0 else 4, 3, 3), bias=False)
        x = net.op("Relu", net.op(op, x, net.weight(f"s{i}", 4), mean, mean, var))
    net.out(net.conv(x, "z", (2, 4, 1, 1)))
    return net.done(("c0.weight", 0), ("c1.weight", 0), ("mean", 0), ("var", 0), groups=2, exact=True)


@case("BatchNormalization", examples=2)
def batch_norm_that_learns(d: Draw, op: str) -> Built:
    """training_mode 1: the statistics are those of the batch."""
    net = Net(d, 14)
    m = any_mid(net, "image", "tokens")
    x = m.x if m.kind == "image" else net.op("Transpose", m.x, perm=[0, 2, 1])
    p = [net.weight(f"bn.{n}", m.c, scale=0.2, offset=1) for n in ("scale", "bias", "mean", "var")]
    y = net.ops(op, x, *p, outs=3, training_mode=1)[0]
    m.close(y if m.kind == "image" else net.op("Transpose", y, perm=[0, 2, 1]))
    return net.done(m.made, ("bn.scale", 0), m.used, exact=True)


@case("GroupNormalization", "BatchNormalization", "MeanVarianceNormalization", "InstanceNormalization", examples=2)
def norm_over_prunable_positions(d: Draw, op: str) -> Built:
    """A product acts on the positions that the norm takes its mean over: they are approximate."""
    net = Net(d, 21)
    x = net.linear(net.input("input", "N", 4, 6), "a", 6, 5)
    p = [net.weight(f"p{i}", 4, offset=1.0, scale=0.1) for i in range(4)]
    if op == "GroupNormalization":
        y = net.op(op, x, *p[:2], num_groups=2)
    elif op == "BatchNormalization":
        y = net.ops(op, x, *p, outs=3, training_mode=1)[0]
    elif op == "MeanVarianceNormalization":
        y = net.op(op, x, axes=[0, 2])
    else:
        y = net.op(op, x, *p[:2])
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), exact=False)


@case("SkipGroupNorm", domain=MS, examples=3, reference=True)
def skip_group_norm(d: Draw, op: str) -> Built:
    """Stable Diffusion's: the skip is an image, or a time embedding [N, c] for all of its positions."""
    net = Net(d, 17, ms=True)
    m = any_mid(net, "image", c=6)
    x, s = (net.op("Transpose", t, perm=[0, 2, 3, 1]) for t in (m.x, m.again("skip")))
    if d.flag():
        s = net.mean(s, [1, 2], keepdims=d.int(0, 1))
    y, total = net.ops(op, x, net.weight("gn.scale", 6), net.weight("gn.bias", 6), s, net.weight("b", 6), outs=2, domain=MS,
                       groups=d.pick(2, 3), channels_last=1, activation=0, epsilon=1e-5)  # fmt: skip
    net.out(net.linear(net.op("Add", y, total), "z", 6, 3))
    return net.done(m.made, ("skip.weight", 0), ("gn.scale", 0), ("b", 0), ("z.weight", 0), groups=2)


@case("GatedRMSNorm", domain=MS, examples=2)
def gated_rms_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    h, c = d.int(1, 3), d.int(2, 4)
    m = any_mid(net, "tokens", c=h * c)
    y = net.op(op, m.x, net.weight("scale", c, offset=1.0), m.again("gate"), domain=MS, activation="silu")
    return m.end(y, groups=2 if h > 1 else 1)


@case("EmbedLayerNormalization", "QEmbedLayerNormalization", domain=MS, examples=2)
def embed_layer_norm(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    e, segments = d.int(4, 6), d.flag()
    ids, kinds = (
        net.op("Cast", net.input(n, "N", "T", ids=k), to=TensorProto.INT32) for n, k in (("ids", 9), ("kinds", 2))
    )
    shapes = {"words": (9, e), "places": (12, e), "segments": (2, e), "gamma": (e,), "beta": (e,)}
    if not segments:
        del shapes["segments"]
    more = {"epsilon": 1e-5}
    if op.startswith("Q"):
        tables = {n: net.init(n, net.rng.integers(0, 255, s).astype(np.uint8)) for n, s in shapes.items()}
        params = [net.init(f"{n}.{k}", np.array(v, t)) for k, v, t in (("scale", 0.02, F32), ("zero", 120, np.uint8))
                  for n in ("words", "places", "segments", "gamma", "beta")]  # fmt: skip
    else:
        tables, params = {n: net.weight(n, *s, offset=0.2) for n, s in shapes.items()}, []
    ins = [
        ids,
        kinds if segments else "",
        *(tables.get(n, "") for n in ("words", "places", "segments", "gamma", "beta")),
    ]
    if params and not segments:
        params[2] = params[7] = ""
    y, _ = net.ops(op, *ins, "", *params, outs=2, domain=MS, **more)
    net.out(net.linear(y, "z", e, 3))
    return net.done(("words", 1), ("places", 1), ("gamma", 0), ("z.weight", 0), frozen=[("words", 0)], exact=False)
