"""LSTM, GRU and RNN: torch's fused kernels where the activations are the standard ones, else steps written out.

Shapes: x [T, N, i], w [D, g h, i], r [D, g h, h], b [D, 2 g h]; D is 1 or 2 directions. ONNX's gates are i o f c and z r h, torch's
i f g o and r z n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator

ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # of ONNX's gates, as torch has them
STANDARD = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
Activation = Callable[[Tensor], Tensor]


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    def number(value: float | None, default: float) -> float:
        return default if value is None else value

    plain: dict[str, Activation] = {
        "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softsign": F.softsign, "softplus": F.softplus,
        "affine": lambda x: number(alpha, 1) * x + number(beta, 0),
        "leakyrelu": lambda x: F.leaky_relu(x, number(alpha, 0.01)),
        "thresholdedrelu": lambda x: torch.where(x > number(alpha, 1), x, torch.zeros_like(x)),
        "scaledtanh": lambda x: number(alpha, 1) * torch.tanh(number(beta, 1) * x),
        "hardsigmoid": lambda x: torch.clamp(number(alpha, 0.2) * x + number(beta, 0.5), 0, 1),
        "elu": lambda x: F.elu(x, number(alpha, 1)),
    }  # fmt: skip
    return plain[name.lower()]


TAKE_ALPHA = ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu")
TAKE_BETA = ("affine", "scaledtanh", "hardsigmoid")


def _activations(node: Node, directions: int) -> list[list[Activation]]:
    """The activations of each direction; parameters go to those that take any, in order."""
    names = node.activations or STANDARD[node.op_type] * directions
    alphas, betas = iter(node.activation_alpha or ()), iter(node.activation_beta or ())
    functions = []
    for name in names:
        low = name.lower()
        alpha = next(alphas, None) if low in TAKE_ALPHA else None
        beta = next(betas, None) if low in TAKE_BETA else None
        functions.append(_activation(name, alpha, beta))
    per = len(STANDARD[node.op_type])
    return [functions[d * per : (d + 1) * per] for d in range(directions)]


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The steps turned around; of a shorter sequence only its own."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    at = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, at.unsqueeze(-1).expand_as(x))


@operator("LSTM", "GRU", "RNN")
def recurrence(
    node: Node, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h0: Tensor | None = None, c0: Tensor | None = None, peephole: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """y [T, D, N, h], the last h [D, N, h] and, of LSTM, the last c; `layout` 1 has the samples first."""
    if node.layout:
        x = x.transpose(0, 1)
        h0, c0 = (v if v is None else v.transpose(0, 1) for v in (h0, c0))
    directions, hidden = w.shape[0], r.shape[-1]
    if lengths is not None:
        lengths = lengths.to(device=x.device, dtype=torch.int64)
        lengths = None if bool((lengths == x.shape[0]).all()) else lengths
    h0 = x.new_zeros(directions, x.shape[1], hidden) if h0 is None else h0
    if node.op_type == "LSTM" and c0 is None:
        c0 = torch.zeros_like(h0)
    run = _fused if _is_standard(node, lengths, peephole, directions) else _written_out
    y, h, c = run(node, x, w, r, b, lengths, h0, c0, peephole)
    if node.layout:
        y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c if c is None else c.transpose(0, 1)
    return (y, h, c)[: max(len(node.outputs), 1)] if node.op_type == "LSTM" else (y, h)


def _is_standard(node: Node, lengths: Tensor | None, peephole: Tensor | None, directions: int) -> bool:
    names = [n.capitalize() for n in node.activations or STANDARD[node.op_type] * directions]
    allowed = [STANDARD[node.op_type] * directions]
    if node.op_type == "RNN":
        allowed.append(["Relu"] * directions)
    plain = (
        lengths is None
        and peephole is None
        and node.clip is None
        and not node.input_forget
        and not node.activation_alpha
    )
    return plain and names in allowed and (node.op_type != "GRU" or bool(node.linear_before_reset))


def _reorder(node: Node, v: Tensor) -> Tensor:
    parts = v.chunk(len(ORDER[node.op_type]), 0)
    return torch.cat([parts[i] for i in ORDER[node.op_type]], 0)


def _fused(
    node: Node, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, _lengths: Any, h0: Tensor, c0: Tensor | None, _p: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    flat: list[Tensor] = []
    for d in range(w.shape[0]):
        flat += [_reorder(node, w[d]), _reorder(node, r[d])]
        flat += [_reorder(node, part) for part in b[d].chunk(2, 0)] if b is not None else []
    backwards = node.direction == "reverse"
    x = x.flip(0) if backwards else x
    settings = (b is not None, 1, 0.0, torch.is_grad_enabled(), w.shape[0] == 2, False)
    c: Tensor | None = None
    if node.op_type == "LSTM":
        y, h, c = torch.lstm(x, [h0, c0], flat, *settings)  # type: ignore[list-item, unused-ignore]
    elif node.op_type == "GRU":
        y, h = torch.gru(x, h0, flat, *settings)
    else:
        names = [n.lower() for n in node.activations or ["tanh"]]
        y, h = (torch.rnn_relu if names[0] == "relu" else torch.rnn_tanh)(x, h0, flat, *settings)
    y = y.reshape(*y.shape[:2], w.shape[0], -1).transpose(1, 2)
    return (y.flip(0) if backwards else y), h, c


def _written_out(
    node: Node, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, lengths: Tensor | None, h0: Tensor, c0: Tensor | None,
    peephole: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    functions = _activations(node, w.shape[0])
    ys, hs, cs = [], [], []
    for d in range(w.shape[0]):
        backwards = node.direction == "reverse" or d == 1
        inputs = _reversed(x, lengths) if backwards else x
        bias = b[d].chunk(2, 0) if b is not None else (w.new_zeros(w.shape[1]),) * 2
        states = [h0[d], *([c0[d]] if c0 is not None else [])]
        step = STEPS[node.op_type](node, r[d], bias, functions[d], None if peephole is None else peephole[d])
        rows = []
        for t, gates in enumerate(F.linear(inputs, w[d]).unbind(0)):
            new = step(gates, *states)
            if lengths is not None:
                goes_on = (t < lengths).unsqueeze(-1)
                rows.append(torch.where(goes_on, new[0], torch.zeros_like(new[0])))
                states = [torch.where(goes_on, n, s) for n, s in zip(new, states, strict=True)]
            else:
                rows.append(new[0])
                states = list(new)
        y = torch.stack(rows)
        ys.append(_reversed(y, lengths) if backwards else y)
        hs.append(states[0])
        cs.append(states[-1])
    return torch.stack(ys, 1), torch.stack(hs), torch.stack(cs) if c0 is not None else None


Step = Callable[..., Sequence[Tensor]]


def _clipped(node: Node) -> Activation:
    return (lambda x: torch.clamp(x, -node.clip, node.clip)) if node.clip is not None else (lambda x: x)


def _lstm_step(node: Node, r: Tensor, bias: Any, act: list[Activation], peephole: Tensor | None) -> Step:
    clip, both = _clipped(node), bias[0] + bias[1]
    p = peephole.chunk(3, 0) if peephole is not None else None

    def step(gates: Tensor, h: Tensor, c: Tensor) -> Sequence[Tensor]:
        i, o, f, g = (gates + F.linear(h, r, both)).chunk(4, -1)
        if p is not None:
            i, f = i + p[0] * c, f + p[2] * c
        i = act[0](clip(i))
        f = 1 - i if node.input_forget else act[0](clip(f))
        c = f * c + i * act[1](clip(g))
        o = act[0](clip(o if p is None else o + p[1] * c))
        return o * act[2](c), c

    return step


def _gru_step(node: Node, r: Tensor, bias: Any, act: list[Activation], _p: Any) -> Step:
    clip, n = _clipped(node), r.shape[-1]
    two, last = r[: 2 * n], r[2 * n :]
    start = torch.cat([bias[0][: 2 * n] + bias[1][: 2 * n], bias[0][2 * n :]])

    def step(gates: Tensor, h: Tensor) -> Sequence[Tensor]:
        x = gates + start
        z, reset = act[0](clip(x[:, : 2 * n] + F.linear(h, two))).chunk(2, -1)
        if node.linear_before_reset:
            inner = reset * F.linear(h, last, bias[1][2 * n :])
        else:
            inner = F.linear(reset * h, last, bias[1][2 * n :])
        return ((1 - z) * act[1](clip(x[:, 2 * n :] + inner)) + z * h,)

    return step


def _rnn_step(node: Node, r: Tensor, bias: Any, act: list[Activation], _p: Any) -> Step:
    clip, both = _clipped(node), bias[0] + bias[1]
    return lambda gates, h: (act[0](clip(gates + F.linear(h, r, both))),)


STEPS: dict[str, Callable[..., Step]] = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}
