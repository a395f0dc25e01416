"""Layers before an elementwise chain change together with the layer behind it: damped Gauss-Newton on rows.

Behind the chain, y = act(scale * (X(W_1, .., W_p) W + b) + shift + others) is to be the original's. With A_i, the derivative of the
chain by what layer i makes, known from runs of the chain at neighboring values, a change of all weights moves y by

    scale * ([sum_i A_i * (x_i dW_i)] W + X dW)

so that least squares by conjugate gradients needs products of matrices alone. Steps are damped as Levenberg and Marquardt did, in
the metric of the blocks of the normal equations, and taken only where the error falls on samples that are held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.repair.chains import Chain, build_reader
from onnxprune.repair.linear_layers import Change, FitLayer
from onnxprune.repair.network import Network
from onnxprune.repair.sampling import Feeds, take_seen
from onnxprune.repair.segments import Walk, open_session, run
from onnxprune.repair.tails import Tail
from onnxprune.repair.tasks import FitTask

STEPS, ROUNDS = 4, 8  # steps, and conjugate gradients in each
DAMPING, MORE, LESS = 1.0, 8.0, 0.5  # of the blocks; what becomes of it when a step fails, and when it does not
FLOOR = 1.0  # added to the Gram matrices, relative to the mean of the diagonal
GAIN = 0.005  # of the error held out that a step has to take away for another one to follow
BLOCKS, HELD = 32, 8  # of the rows, in so many blocks, every eighth block is held back
WORK = 1 << 36  # multiply-adds for one chain
ROWS_BYTES = 256 << 20
MOST, LEAST = 128, 8  # numbers to fit, for each weight
SHIFT = 1e-2  # of the deviation of what a layer makes: the distance at which the derivative is taken
Weights = list[Array]  # of the makers, then of the reader: [g, K (+ 1 for a bias), O]


@dataclass
class ChainRows:
    """The inputs of the layers before the chain, xs [g, m, K]; `index` [n, k] are the rows that the reader reads (m: padding).

    fixed [m, H]; target and others [n, O].
    """

    xs: list[Array]
    fixed: dict[str, Array]
    index: Array
    target: Array
    others: Array | None


@dataclass
class ChainWatch:
    """Takes rows for a chain while the batches go by."""

    chain: Chain
    task: FitTask
    net: Network
    batches: int
    parts: list[ChainRows] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.makers, self.reader = self.chain.layers(self.net), build_reader(self.net, self.chain)
        self.rng = np.random.default_rng(self.chain.reader)
        self.want = _count_rows(self.makers, self.reader)

    @property
    def pays(self) -> bool:
        """Are there rows enough within the work that one chain may take?"""
        weights = sum(layer.w.size for layer in (*self.makers, self.reader))
        return self.want * self.reader.outputs >= LEAST * weights

    def watch(self, pairs: Iterable[tuple[Feeds, Feeds]]) -> Iterator[tuple[Feeds, Feeds]]:
        """The same pairs of batches."""
        for original, pruned in pairs:
            if self.pays:
                self.parts.append(self._take(original, pruned))
            yield original, pruned

    def _take(self, original: Feeds, pruned: Feeds) -> ChainRows:
        drawn = list[Array]()

        def draw(count: int, each: int) -> Array:
            drawn.append(np.sort(self.rng.permutation(count)[: max(1, round(self.want / self.batches / each))]))
            return drawn[0]

        _, target, others = take_seen(self.task, self.net, original, pruned, draw)
        x, axis = pruned[self.chain.x], self.reader.x_axis
        shape = list(x.shape)
        shape[axis] = 1
        places = 1 + np.arange(np.prod(shape)).reshape(shape)  # 0 is padding
        out = list(original[self.task.tail.target].shape)
        out[self.reader.axis] = self.reader.outputs
        read = self.reader.take_rows(places, out, drawn[0])[0]
        count, _ = self.makers[0].count_places(x.shape)
        used = np.unique((read[read > 0] - 1) % count)
        rows = (read - 1) // count * len(used) + np.searchsorted(used, (read - 1) % count)
        xs = [m.take_rows(pruned[m.x], x.shape, used).astype(np.float32, copy=False) for m in self.makers]
        whole = self.makers[0].in_one()
        fixed = {n: whole.take_outputs(pruned[n], used)[0].astype(np.float32, copy=False) for n in self.chain.fixed}
        added = sum(others[1:], start=others[0]) if others else None
        return ChainRows(xs, fixed, np.where(read > 0, rows, -1), target[0], None if added is None else added[0])

    def take_rows(self) -> ChainRows:
        """Join the rows of all batches."""
        parts, self.parts = self.parts, []
        starts = np.cumsum([0, *(p.xs[0].shape[1] for p in parts)])
        index = np.concatenate(
            [np.where(p.index < 0, starts[-1], p.index + s) for p, s in zip(parts, starts, strict=False)]
        )
        xs = [np.concatenate([p.xs[i] for p in parts], axis=1) for i in range(len(self.makers))]
        fixed = {n: np.concatenate([p.fixed[n] for p in parts]) for n in self.chain.fixed}
        others = None if parts[0].others is None else np.concatenate([p.others for p in parts])
        return ChainRows(xs, fixed, index, np.concatenate([p.target for p in parts]), others)


def _count_rows(makers: Sequence[FitLayer], reader: FitLayer) -> int:
    """Choose the number of the reader's rows, within the work and the memory that a chain may take."""
    (_, k, o), (h, _, _) = reader.w.shape, (makers[0].outputs, 0, 0)
    taps = max(k // h, 1)
    before = taps * sum(m.w.shape[1] for m in makers) * h
    work = (4 * k * o + 2 * before) * STEPS * (ROUNDS + 2)
    nbytes = 4 * (taps * sum(m.w.shape[0] * m.w.shape[1] + 3 * h for m in makers) + 2 * k + 4 * o)
    enough = MOST * sum(layer.w.size for layer in (*makers, reader)) // o
    return int(min(enough, WORK // work, ROWS_BYTES // nbytes))


def _matrix(layer: FitLayer) -> Array:
    """Weights with the bias as a last row, where a layer has one."""
    return layer.w if layer.b is None else np.concatenate([layer.w, layer.b[:, None]], axis=1)


def _with_ones(x: Array, layer: FitLayer) -> Array:
    return x if layer.b is None else np.concatenate([x, np.ones((*x.shape[:2], 1), np.float32)], axis=2)


def _flat(y: Array) -> Array:
    """[g, m, O] as [m, g O]"""
    return y[0] if len(y) == 1 else y.transpose(1, 0, 2).reshape(y.shape[1], -1)


class ChainFit:
    """The rows of a chain, and what its layers make of them."""

    def __init__(
        self, rows: ChainRows, chain: Chain, layers: Sequence[FitLayer], tail: Tail, walk: Walk, rank: int
    ) -> None:
        self.rows, self.chain, self.tail, self.rank = rows, chain, tail, rank
        self.makers, self.reader = layers[:-1], layers[-1]
        self.xs = [_with_ones(x, m) for x, m in zip(rows.xs, self.makers, strict=True)]
        feeds = {n: np.dtype(np.float32) for n in (*chain.leaves, *chain.fixed)}
        self.session = open_session(walk.cut(chain.nodes, feeds, [chain.x]), "chain") if chain.nodes else None
        self.scale = self.tail.scale.astype(np.float32)
        self.held_out = np.arange(len(rows.index)) * BLOCKS // len(rows.index) % HELD == HELD - 1
        self.want = self.tail.act(rows.target)
        self.order = np.argsort(rows.index, axis=None, kind="stable")
        self.places, self.starts = np.unique(rows.index.ravel()[self.order], return_index=True)

    def run_makers(self, w: Weights) -> list[Array]:
        """Compute the output of each layer before the chain, [m, H]."""
        return [_flat(x @ v.astype(np.float32)) for x, v in zip(self.xs, w, strict=False)]

    def run_chain(self, ys: Sequence[Array]) -> Array:
        """Compute the output of the chain, [m, H]."""
        if self.session is None:
            return ys[0]
        axis, shape = self.reader.x_axis % self.rank, [1] * self.rank
        shape[0 if axis else 1], shape[axis] = ys[0].shape
        whole = {**dict(zip(self.chain.leaves, ys, strict=True)), **self.rows.fixed}
        turned = axis == 0
        feeds = {n: np.ascontiguousarray(v.T if turned else v).reshape(shape) for n, v in whole.items()}
        (x,) = run(self.session, feeds).values()
        return np.asarray(x.reshape(ys[0].shape[::-1]).T if turned else x.reshape(ys[0].shape))

    def gather_rows(self, x: Array) -> Array:
        """Rows of the reader, [n, k H], of what it reads at each place [m, H]."""
        index = self.rows.index
        if len(self.places) and self.places[-1] == len(x):
            x = np.concatenate([x, np.zeros((1, x.shape[1]), x.dtype)])
        return np.asarray(x[index].reshape(len(index), -1))

    def scatter_rows(self, rows: Array, places: int) -> Array:
        """The transpose of `gathered`."""
        width = rows.shape[1] // self.rows.index.shape[1]
        out = np.zeros((places + 1, width), np.float32)
        out[self.places] = np.add.reduceat(rows.reshape(-1, width)[self.order], self.starts, axis=0)
        return out[:places]

    def compute_outputs(self, x: Array, w: Array) -> Array:
        """Compute the inputs of the activation after the reader, for rows [n, k H (+ 1)]."""
        y = x @ w[0].astype(np.float32)
        y *= self.scale
        y += self.tail.shift.astype(np.float32)
        return np.asarray(y if self.rows.others is None else y + self.rows.others)

    def read_rows(self, w: Weights) -> Array:
        """The reader's rows for those weights, with a column of ones for a bias."""
        x = self.gather_rows(self.run_chain(self.run_makers(w)))
        return x if self.reader.b is None else np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)

    def measure_error(self, w: Weights, held_out: bool) -> float:
        return self._error(self.compute_outputs(self.read_rows(w), w[-1]), held_out)

    def _error(self, y: Array, held_out: bool) -> float:
        """The squared error behind the activation; infinite where it is no number."""
        wrong = np.square(self.tail.act(y) - self.want, dtype=np.float64).sum(axis=1)
        error = float(wrong[self.held_out == held_out].sum())
        return error if np.isfinite(error) else np.inf


class Linear:
    """The reader's outputs as a linear function of all weights, near given weights, and its normal equations."""

    def __init__(self, f: ChainFit, w: Weights, inverses: list[Array], grams: list[Array]) -> None:
        self.f, self.w = f, [v.astype(np.float32) for v in w]
        ys = f.run_makers(w)
        self.slopes = [self._slope(ys, i) for i in range(len(ys))]
        self.x = f.read_rows(w)
        y = f.compute_outputs(self.x, w[-1])
        cut = (f.rows.target <= f.tail.low) & (y <= f.tail.low) | (f.rows.target >= f.tail.high) & (y >= f.tail.high)
        self.free = ~(cut | f.held_out[:, None]) * f.scale  # how far each output follows the reader's sums
        self.wrong = np.where(self.free != 0, f.rows.target - y, 0).astype(np.float32)
        self.inverses, self.grams = inverses, grams
        if not grams:
            grams += [np.asarray(x.transpose(0, 2, 1) @ x, np.float64) for x in (*f.xs, self.x[None])]
            inverses += [np.linalg.inv(_raised(g)) for g in grams]
        self.sizes = self._sizes()

    def _slope(self, ys: Sequence[Array], i: int) -> Array:
        """The derivative of the chain by what layer i makes, [m, H]."""
        if self.f.session is None:
            return np.ones_like(ys[i])
        step = np.float32(SHIFT) * (ys[i].std(axis=0) + np.float32(1e-6))
        sides = [self.f.run_chain([y + sign * step if j == i else y for j, y in enumerate(ys)]) for sign in (1, -1)]
        return np.asarray((sides[0] - sides[1]) / (2 * step))

    def _sizes(self) -> list[Array]:
        """The squared sensitivity of the outputs to each layer's outputs: [g, 1, O], summed over the reader's outputs."""
        width = self.slopes[0].shape[1]
        taps = self.f.rows.index.shape[1]
        reader = self.w[-1][0, : taps * width] * self.f.scale
        out = np.square(reader).sum(axis=1).reshape(taps, width).sum(axis=0)
        share = len(self.f.rows.index) / len(self.slopes[0])
        squares = [np.square(a).mean(axis=0) * out * share for a in self.slopes]
        shapes = [(v.shape[0], 1, v.shape[2]) for v in self.w]
        sizes = [
            np.maximum(s, 1e-6 * s.mean() + 1e-30).reshape(shape) for s, shape in zip(squares, shapes, strict=False)
        ]
        last = np.square(self.f.scale)
        return [*sizes, np.maximum(last, 1e-6 * last.mean() + 1e-30)[None, None]]

    def push_forward(self, d: Weights) -> Array:
        """The change of the outputs for changes of the weights, [n, O]."""
        x = sum(a * y for a, y in zip(self.slopes, self.f.run_makers(d), strict=True))
        rows = self.f.gather_rows(np.asarray(x))
        y = rows @ self.w[-1][0, : rows.shape[1]]
        y += self.x @ d[-1][0].astype(np.float32)
        return np.asarray(y * self.free)

    def pull_back(self, u: Array) -> Weights:
        """The transpose of `moved`."""
        u = (u * self.free).astype(np.float32)
        rows = u @ self.w[-1][0, : self.f.rows.index.shape[1] * self.slopes[0].shape[1]].T
        g = self.f.scatter_rows(rows, len(self.slopes[0]))
        shaped = (
            (a * g).reshape(len(a), len(v), -1).transpose(1, 0, 2) for a, v in zip(self.slopes, self.w, strict=False)
        )
        before = [np.asarray(x.transpose(0, 2, 1) @ v, np.float64) for x, v in zip(self.f.xs, shaped, strict=True)]
        return [*before, np.asarray(self.x.T @ u, np.float64)[None]]

    def apply_metric(self, d: Weights) -> Weights:
        """The blocks of the normal equations, times changes."""
        return [_raised(g) @ v * s for g, v, s in zip(self.grams, d, self.sizes, strict=True)]

    def find_step(self, damping: float) -> Weights:
        """The damped Gauss-Newton step: conjugate gradients, preconditioned by the blocks."""
        d = [np.zeros(v.shape) for v in self.w]
        left = self.pull_back(self.wrong)
        z = self._solved(left)
        way, energy = z, _dot(left, z)
        for _ in range(ROUNDS):
            if not energy > 0:
                break
            image = _plus(self.pull_back(self.push_forward(way)), damping, self.apply_metric(way))
            ratio = energy / _dot(way, image)
            d, left = _plus(d, ratio, way), _plus(left, -ratio, image)
            z = self._solved(left)
            energy, before = _dot(left, z), energy
            way = _plus(z, energy / before, way)
        return d

    def _solved(self, r: Weights) -> Weights:
        return [i @ (v / s) for i, v, s in zip(self.inverses, r, self.sizes, strict=True)]


def _raised(gram: Array) -> Array:
    """The matrices with a little added to their diagonals."""
    size = gram.shape[-1]
    return np.asarray(gram + (FLOOR * np.einsum("gkk->g", gram) / size + 1e-30)[:, None, None] * np.eye(size))


def _dot(a: Weights, b: Weights) -> float:
    return float(sum(np.vdot(x, y) for x, y in zip(a, b, strict=True)))


def _plus(a: Weights, factor: float, b: Weights) -> Weights:
    return [x + factor * y for x, y in zip(a, b, strict=True)]


def improve(f: ChainFit) -> tuple[Weights, float] | None:
    """Better weights, and the share of the error that is left where it was held out; None where no step is better."""
    w = [_matrix(layer) for layer in (*f.makers, f.reader)]
    first = best = f.measure_error(w, True)
    damping, grams, inverses = DAMPING, list[Array](), list[Array]()
    near: Linear | None = None
    for _ in range(STEPS):
        near = near or Linear(f, w, inverses, grams)
        new = _plus(w, 1.0, near.find_step(damping))
        error = f.measure_error(new, True)
        if error < best:
            enough = error > (1 - GAIN) * best
            w, best, near, damping = new, error, None, damping * LESS
            if enough:
                break
        else:
            damping *= MORE
    return (w, best / first) if best < first else None


def adjust(watch: ChainWatch, walk: Walk) -> tuple[list[Change], float]:
    """The changes that bring a layer's outputs nearer to the original's, and the share of the error that is left."""
    if not watch.parts:
        return [], 1.0
    net, chain = watch.net, watch.chain
    layers = [*chain.layers(net), build_reader(net, chain)]  # the reader has been fitted by now
    rank = len(net.sizes(chain.x) or ())
    improved = improve(ChainFit(watch.take_rows(), chain, layers, watch.task.tail, walk, rank))
    if improved is None:
        return [], 1.0
    changes = list[Change]()
    for layer, w in zip(layers, improved[0], strict=True):
        changes += layer.list_changes(w, None) if layer.b is None else layer.list_changes(w[:, :-1], w[:, -1])
    return changes, improved[1]
