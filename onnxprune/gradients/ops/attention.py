"""Attention in its fused forms: softmax(q k^T scale + bias) v, after heads were taken apart; and rotary positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.ops.records import MICROSOFT

NEVER = float("-inf")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[N, T, (h e)] -> [N, h, T, e]"""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[N, h, T, e] -> [N, T, (h e)]"""
    return x.transpose(1, 2).flatten(2)


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Each key head once for every query head that it serves."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as what is added to scores: 0 where it is true, and no score elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(~mask, NEVER)


def causal(queries: int, keys: int, offset: Any, like: Tensor, left: int = -1, right: int = 0) -> Tensor:
    """Query i sees key j where j <= i + offset + right (unless -1) and j >= i + offset - left; the offset may differ by sample."""
    i = torch.arange(queries, device=like.device).reshape(-1, 1)
    j = torch.arange(keys, device=like.device)
    at = i + (offset.to(like.device).reshape(-1, 1, 1, 1) if isinstance(offset, Tensor) else offset)
    seen = torch.ones_like(at + j, dtype=torch.bool)
    if right >= 0:
        seen = seen & (j <= at + right)
    if left >= 0:
        seen = seen & (j >= at - left)
    return additive(seen, like)


def normalize(scores: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(scores + bias); a query that may see no key gets weights of zero."""
    if bias is None:
        return torch.softmax(scores, -1)
    blind = (bias == NEVER).all(-1, keepdim=True)
    if blind.device.type == "cpu" and not bool(blind.any()):
        return torch.softmax(scores + bias, -1)
    total = torch.where(blind, torch.zeros_like(scores), scores + bias)
    return torch.where(blind, torch.zeros_like(scores), torch.softmax(total, -1))


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


@operator("Attention", since=23)
def attention(
    node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, past_k: Tensor | None = None,
    past_v: Tensor | None = None, valid: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Outputs: y, the keys and values with those of the cache before them, and the scores (`qk_matmul_output_mode`)."""
    flat = q.dim() == 3
    if flat:
        q, k, v = split_heads(q, node.q_num_heads), split_heads(k, node.kv_num_heads), split_heads(v, node.kv_num_heads)
    past = 0 if past_k is None else past_k.shape[2]
    if past_k is not None and past_v is not None:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    queries, keys = q.shape[2], k.shape[2]
    bias = None if mask is None else additive(mask, q)
    if bias is not None and bias.shape[-1] < keys:
        bias = torch.nn.functional.pad(bias, [0, keys - bias.shape[-1]], value=NEVER)
    offset: Any = valid.reshape(-1) - queries if valid is not None and past_k is None else past
    if node.is_causal:
        bias = _add(bias, causal(queries, keys, offset, q))
    left, right = node.get("left_window_size", -1), node.get("right_window_size", -1)
    if left >= 0 or right >= 0:
        bias = _add(bias, causal(queries, keys, offset, q, left, right))
    if valid is not None:
        seen = torch.arange(keys, device=q.device) < valid.to(q.device).reshape(-1, 1, 1, 1)
        bias = _add(bias, additive(seen, q))
    scale = node.scale if node.scale is not None else q.shape[-1] ** -0.5
    raw = (q * math.sqrt(scale)) @ (repeat_heads(k, q.shape[1]) * math.sqrt(scale)).transpose(-1, -2)
    scores = node.softcap * torch.tanh(raw / node.softcap) if node.softcap else raw
    weights = normalize(scores, bias)
    y = weights @ repeat_heads(v, q.shape[1])
    shown = [raw, scores, scores if bias is None else scores + bias, weights][node.qk_matmul_output_mode or 0]
    return merge_heads(y) if flat else y, k, v, shown


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Pairs of features turned: x [N, T, h, e], tables [N or 1, T, half]; features beyond the pairs stay."""
    half = cos.shape[-1]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        y = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        y = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    return torch.cat([y, rest], -1) if rest.shape[-1] else y


@operator("RotaryEmbedding", since=23)
def rotary(node: Node, x: Tensor, cos: Tensor, sin: Tensor, places: Tensor | None = None) -> Tensor:
    if places is not None:
        cos, sin = cos[places.to(torch.int64)], sin[places.to(torch.int64)]
    if x.dim() == 4:
        return rotate(x.transpose(1, 2), cos, sin, bool(node.interleaved)).transpose(1, 2)
    y = x.reshape(*x.shape[:2], node.num_heads, -1)
    return rotate(y, cos, sin, bool(node.interleaved)).flatten(2)


@operator("RotaryEmbedding", domain=MICROSOFT)
def rotary_by_position(node: Node, x: Tensor, places: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Positions for each token, or the first one, from which they count up."""
    at = places.to(torch.int64)
    steps = x.shape[2] if x.dim() == 4 else x.shape[1]
    if at.numel() == 1:
        at = at.reshape(1, 1) + torch.arange(steps, device=x.device)
    if x.dim() == 4:
        return rotate(x.transpose(1, 2), cos[at], sin[at], bool(node.interleaved)).transpose(1, 2)
    heads = node.num_heads or x.shape[-1] // (2 * cos.shape[-1])
    y = x.reshape(*x.shape[:2], heads, -1)
    return rotate(y, cos[at], sin[at], bool(node.interleaved)).flatten(2)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None) -> Tensor:
    """y [N, T, (h e)] of heads [N, h, T, e]; a scale of None or 0 is 1 / sqrt(e)."""
    scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
    return merge_heads(normalize(scores, bias) @ v)


def _key_mask(mask: Tensor, keys: int, filter_value: float, like: Tensor) -> Tensor:
    """The masks that com.microsoft takes: lengths [N], ones and zeros [N, keys], or those for each query [N, T, keys]."""
    if mask.dim() == 1:
        seen = torch.arange(keys, device=like.device) < mask.reshape(-1, 1)
        seen = seen[:, None, None]
    else:
        seen = (mask[:, None, None] if mask.dim() == 2 else mask[:, None] if mask.dim() == 3 else mask) != 0
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(~seen, filter_value)


@operator("Attention", domain=MICROSOFT)
def packed_attention(
    node: Node, x: Tensor, w: Tensor, b: Tensor | None = None, mask: Tensor | None = None, past: Tensor | None = None,
    added: Tensor | None = None, _length: Tensor | None = None,
) -> Any:  # fmt: skip
    """x [N, T, i] by w [i, (q k v)]; past and present are [2, N, h, T, e]."""
    product = x @ w
    return _attend_packed(node, product if b is None else product + b, mask, past, added)


def _attend_packed(node: Node, product: Tensor, mask: Tensor | None, past: Tensor | None, added: Tensor | None) -> Any:
    sizes: Any = node.qkv_hidden_sizes or product.shape[-1] // 3
    q, k, v = (split_heads(part, node.num_heads) for part in torch.split(product, sizes, -1))
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    keys = k.shape[2]
    low = node.get("mask_filter_value", -10000.0)
    bias = None if mask is None else _key_mask(mask, keys, low, q)
    if node.unidirectional:
        bias = _add(bias, causal(q.shape[2], keys, keys - q.shape[2], q))
    y = _attend(q, k, v, node.scale, _add(bias, added))
    return (y, torch.stack([k, v])) if len(node.outputs) > 1 else y


@operator("QAttention", domain=MICROSOFT)
def quantized_packed_attention(
    node: Node, x: Tensor, w: Tensor, b: Tensor, x_scale: Tensor, w_scale: Tensor, mask: Tensor | None = None,
    x_zero: Tensor | None = None, w_zero: Tensor | None = None, past: Tensor | None = None,
) -> Any:  # fmt: skip
    dtype = node.state.dtype
    rows = x.to(dtype) - (0 if x_zero is None else x_zero.to(dtype))
    columns = w.to(dtype) - (0 if w_zero is None else w_zero.to(dtype))
    return _attend_packed(node, rows @ columns * (x_scale * w_scale) + b, mask, past, None)


@operator("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    node: Node, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, bias: Tensor | None = None,
    key_mask: Tensor | None = None, added: Tensor | None = None, past_k: Tensor | None = None, past_v: Tensor | None = None,
) -> Any:  # fmt: skip
    """q, k and v apart, or packed as q [N, T, h, 3, e] or k [N, T, h, 2, e]; k and v may come in heads, without bias."""
    heads = node.num_heads
    if k is None:
        q, k, v = (part.flatten(2) for part in q.unbind(3))
    elif v is None:
        k, v = (part.flatten(2) for part in k.unbind(3))
    assert v is not None
    if bias is not None:
        parts = torch.split(bias, [q.shape[-1], q.shape[-1], bias.numel() - 2 * q.shape[-1]])
        q = q + parts[0]
        k, v = (k + parts[1], v + parts[2]) if k.dim() == 3 else (k, v)
    q = split_heads(q, heads)
    k, v = (x if x.dim() == 4 else split_heads(x, heads) for x in (k, v))
    if past_k is not None and past_v is not None:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    keys = k.shape[2]
    low = node.get("mask_filter_value", -10000.0)
    seen = None if key_mask is None else _key_mask(key_mask, keys, low, q)
    if node.unidirectional:
        seen = _add(seen, causal(q.shape[2], keys, keys - q.shape[2], q))
    y = _attend(q, k, v, node.scale, _add(seen, added))
    return (y, k, v)[: len(node.outputs)]


@operator("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(
    node: Node, q: Tensor, k: Tensor | None, v: Tensor | None, past_k: Tensor | None, past_v: Tensor | None, last: Tensor,
    total: Tensor, cos: Tensor | None = None, sin: Tensor | None = None, places: Tensor | None = None,
    added: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Causal attention of query heads that share key heads; `last` is the last valid position of each sample's keys."""
    heads, shared = node.num_heads, node.kv_num_heads
    if k is None or v is None:
        e = q.shape[-1] // (heads + 2 * shared)
        q, k, v = torch.split(q, [heads * e, shared * e, shared * e], -1)
    q, k, v = (x.reshape(*x.shape[:2], n, -1) for x, n in ((q, heads), (k, shared), (v, shared)))
    steps, past = q.shape[1], 0 if past_k is None else past_k.shape[2]
    begin = (last.to(q.device).reshape(-1, 1) + 1 - steps).clamp(min=0)
    if node.do_rotary and cos is not None and sin is not None:
        at = (begin if past else torch.zeros_like(begin)) + torch.arange(steps, device=q.device)
        at = places.to(torch.int64) if places is not None else at.to(torch.int64)
        q, k = (rotate(x, cos[at], sin[at], bool(node.rotary_interleaved)) for x in (q, k))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if past_k is not None and past_v is not None and past:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    bias = causal(steps, k.shape[2], past, q, node.get("local_window_size", -1) - 1)
    scores = q @ repeat_heads(k, heads).transpose(-1, -2) * (node.scale or q.shape[-1] ** -0.5)
    if node.softcap:
        scores = node.softcap * torch.tanh(scores / node.softcap)
    y = merge_heads(normalize(scores, _add(bias, added)) @ repeat_heads(v, heads))
    return (y, k, v)[: len(node.outputs)]


@operator("LinearAttention", since=27)
@operator("LinearAttention", domain=MICROSOFT)
def linear_attention(
    node: Node, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, decay: Tensor | None = None,
    rate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A state [N, h, e, f] that each step decays, corrects and adds k v^T to; y = scale q^T state."""
    rule, heads, shared = node.get("update_rule", "gated_delta"), node.q_num_heads, node.kv_num_heads
    q, k, v = split_heads(q, heads), split_heads(k, shared), split_heads(v, shared)
    scale = node.scale or q.shape[-1] ** -0.5
    state = q.new_zeros(q.shape[0], shared, k.shape[-1], v.shape[-1]) if state is None else state
    fade = None if decay is None else torch.exp(split_heads(decay, shared)).unsqueeze(-1)
    step = None if rate is None else rate.transpose(1, 2).unsqueeze(-1)
    rows = []
    for t in range(q.shape[2]):
        state = state * fade[:, :, t] if fade is not None and "gated" in rule else state
        new = v[:, :, t]
        if step is not None and "delta" in rule:
            new = step[:, :, t] * (new - (k[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
        state = state + k[:, :, t].unsqueeze(-1) * new.unsqueeze(-2)
        rows.append(scale * (q[:, :, t].unsqueeze(-2) @ repeat_heads(state, heads)).squeeze(-2))
    return merge_heads(torch.stack(rows, 2)), state
