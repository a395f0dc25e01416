"""Text that a language model writes itself: calibration data where there are none.

Token after token is drawn from the model's own probabilities (temperature 1), many texts at once. A text begins with the token
that is said, else with one that is drawn from all that there are. A decoder with a cache of keys and values reads one token a step;
its data are the ends of the texts, with the cache of their beginnings.
Source: Liu et al. 2023, LLM-QAT: Data-Free Quantization Aware Training for Large Language Models, arXiv 2305.17888, section 2.1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto, helper

from onnxprune.calibration.data import Batches, load_data
from onnxprune.calibration.inputs import InputSpec, draw_inputs, label, list_dynamic_axes, list_input_specs
from onnxprune.calibration.sessions import open_session, run_as
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.caches import DecoderCache, find_caches
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import replace_outputs
from onnxprune.graph.view import Names
from onnxprune.graph.vocabulary import find_ids, find_vocabulary_size
from onnxprune.graph.weights import Array
from onnxprune.progress import Progress

TEXTS, LENGTH, LEAST_LENGTH = 64, 256, 8
PROMPT = 4  # one of so many tokens of a text is in the cache, where the model takes several at once
AT_ONCE = 32  # texts that are written side by side


def write_text(
    model: Model,
    *,
    texts: int | None = None,
    length: int | None = None,
    start: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Batches:
    """So many texts (TEXTS) of so many tokens (LENGTH, or what the model takes), the same for the same seed.

    Raises OnnxPruneError where the model is none of language, and for a start that is no token.
    """
    writer, texts = _Writer.of(model, length, start), texts or TEXTS
    step = writer.batch or min(AT_ONCE, texts)
    rounds = -(-texts // step)
    parts = []
    for at in range(rounds):
        report = (lambda done, of, at=at: progress(at * of + done, rounds * of)) if progress else None
        parts.append(writer.write(step, np.random.default_rng([seed, at]), report))
    rows = texts if writer.batch is None else rounds * step
    arrays = {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}
    return replace(load_data(writer.complete(arrays), writer.specs), source=f"the model's own text, seed {seed}")


@dataclass(frozen=True)
class _Writer:
    """A model of language that gives the scores at one position.

    ids      the input of tokens [batch, length]
    batch    the texts that it takes at once, where that is fixed
    length   of a text; `fixed` says that the model takes no shorter one
    at       the input that says at which position scores are wanted, `scores` the output that has them
    caches   of keys and values; then the scores are those of the last token
    """

    model: Model
    specs: Sequence[InputSpec]
    ids: InputSpec
    tokens: int
    start: int | None
    batch: int | None
    length: int
    fixed: bool
    at: str
    scores: str
    caches: Sequence[DecoderCache] = ()

    @staticmethod
    def of(model: Model, length: int | None, start: int | None) -> _Writer:
        tokens, ids = find_vocabulary_size(model.proto), find_ids(model.proto)
        specs = list_input_specs(model.proto)
        spec = next((s for s in specs if s.name in ids and len(s.shape) == 2), None)
        output = next((v.name for v in model.proto.graph.output if _scores_tokens(v, tokens)), None)
        if tokens is None or spec is None or output is None:
            raise OnnxPruneError(
                "a model writes its own text where it has an input of tokens [batch, length] and an output of their scores "
                "[batch, length, tokens]; this one has not: give data"
            )
        if start is not None and not 0 <= start < tokens:
            raise OnnxPruneError(f"start-token is {start}; the model knows the tokens 0 to {tokens - 1}")
        batch, own = (n if isinstance(n, int) else None for n in spec.shape)
        if caches := find_caches(model.proto):
            _check_caches(specs, spec, caches)
            outputs = [v for v in model.proto.graph.output if v.name in {output, *(c.output for c in caches)}]
            shown, at, scores = replace(model, proto=replace_outputs(model.proto, outputs)), "", output
            chosen = max(length or LENGTH, 2)  # one token is in the cache, and one is read
        else:
            shown, at, scores = _show_position(model, output)
            chosen = own or length or LENGTH
        writer = _Writer(shown, specs, spec, tokens, start, batch, chosen, own is not None, at, scores, caches)
        return writer if length is not None or (own is not None and not caches) else writer.fitting()

    def fitting(self) -> _Writer:
        """The same with shorter texts, where the model does not run on so long ones."""
        session, n = open_session(self.model, "original"), self.length
        while n > LEAST_LENGTH:
            try:
                run_as("original", session, self._probe(n))
                break
            except OnnxPruneError:
                n //= 2
        return replace(self, length=n)

    def _probe(self, length: int) -> dict[str, Array]:
        """Inputs for the last token of a text."""
        rows = self.batch or 1
        if self.caches:
            return self.complete({self.ids.name: self._zeros(rows, 1), **self._empty_caches(rows, length - 1)})
        return {**self.feeds(self._zeros(rows, length)), self.at: np.array([0])}

    def _zeros(self, texts: int, length: int) -> Array:
        return np.zeros((texts, length), self.ids.dtype)

    def _empty_caches(self, texts: int, length: int = 0) -> dict[str, Array]:
        """Caches of so many tokens, all zero."""
        specs, arrays = {s.name: s for s in self.specs}, dict[str, Array]()
        for cache in self.caches:
            spec = specs[cache.input]
            shape = [n if isinstance(n, int) else texts for n in spec.shape]
            shape[cache.axis] = length
            arrays[cache.input] = np.zeros(shape, spec.dtype)
        return arrays

    def feeds(self, ids: Array) -> dict[str, Array]:
        """All inputs for texts."""
        return self.complete({self.ids.name: ids.astype(self.ids.dtype)})

    def complete(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """These inputs, and all others: masks are ones, positions count, on from those in the cache."""
        ids = arrays[self.ids.name]
        past = arrays[self.caches[0].input].shape[self.caches[0].axis] if self.caches else 0
        rest = [s for s in self.specs if s.name not in arrays]
        known = {label(self.ids, axis): n for axis, n in enumerate(ids.shape)}
        wanted = {label(s, axis) for s, axis in list_dynamic_axes(rest)}
        sizes = {name: n for name, n in known.items() if name in wanted}
        if self.caches:  # a mask is as long as all tokens
            sizes |= dict.fromkeys(wanted - sizes.keys(), past + ids.shape[1])
        others, _ = draw_inputs(rest, seed=0, batch=len(ids), sequence=ids.shape[1], sizes=sizes)
        counted = {name: x + x.dtype.type(past) for name, x in others.items() if "position" in name.lower()}
        return {**others, **counted, **arrays}

    def write(self, texts: int, rng: np.random.Generator, progress: Progress | None) -> dict[str, Array]:
        """The inputs that hold texts [texts, length]; the others follow from them."""
        session = open_session(self.model, "original")
        ids = np.zeros((texts, self.length), self.ids.dtype)
        ids[:, 0] = rng.integers(0, self.tokens, texts) if self.start is None else self.start
        caches, kept = self._empty_caches(texts), dict[str, Array]()
        prompt = self._count_prompt()
        for n in range(1, self.length):
            if self.caches:
                outputs = run_as("original", session, self.complete({self.ids.name: ids[:, n - 1 : n], **caches}))
                caches = {c.input: outputs[c.output] for c in self.caches}
                scores = outputs[self.scores][:, -1]
            else:
                feeds = self.feeds(ids if self.fixed else ids[:, :n])
                scores = run_as("original", session, {**feeds, self.at: np.array([n - 1])})[self.scores]
            kept = caches if n == prompt else kept
            ids[:, n] = draw_tokens(scores.reshape(texts, -1), rng)
            if progress:
                progress(n, self.length - 1)
        return {self.ids.name: ids[:, prompt:], **kept}

    def _count_prompt(self) -> int:
        """The tokens of a text that are in the cache, where there is one, when the rest is read."""
        if not self.caches:
            return 0
        return self.length - 1 if self.fixed else max(1, self.length // PROMPT)


def draw_tokens(scores: Array, rng: np.random.Generator) -> Array:
    """One token for each row of scores [N, tokens], by their softmax: the largest of scores and Gumbel noise is such a draw."""
    drawn: Array = (scores.astype(np.float64) + rng.gumbel(size=scores.shape)).argmax(1)
    return drawn


def _check_caches(specs: Sequence[InputSpec], ids: InputSpec, caches: Sequence[DecoderCache]) -> None:
    """Raise OnnxPruneError where a cache cannot be empty, or the model takes several tokens, and no other number of them."""
    shapes = {s.name: s.shape for s in specs}
    for cache in caches:
        shape = shapes[cache.input]
        open_axes = {axis for axis, n in enumerate(shape) if not isinstance(n, int)}
        if not open_axes <= {0, cache.axis} or (isinstance(ids.shape[1], int) and ids.shape[1] != 1):
            raise OnnxPruneError(
                f"the model's cache '{cache.input}' is {list(shape)}: nobody knows how to begin it; give data"
            )


def _scores_tokens(value: object, tokens: int | None) -> bool:
    dims = value.type.tensor_type.shape.dim  # type: ignore[attr-defined]
    return len(dims) == 3 and dims[2].dim_value in (0, tokens)


def _show_position(model: Model, output: str) -> tuple[Model, str, str]:
    """The model with an input more, a position [1], and the scores there for its only output: all of them are large."""
    names = Names([v.name for v in model.proto.graph.input] + [o for n in model.proto.graph.node for o in n.output])
    at, scores = names.claim("position_to_show", "position_to_show"), names.claim("scores_shown", "scores_shown")
    elem = next(v.type.tensor_type.elem_type for v in model.proto.graph.output if v.name == output)
    proto = replace_outputs(model.proto, [helper.make_tensor_value_info(scores, elem, None)])
    proto.graph.input.append(helper.make_tensor_value_info(at, TensorProto.INT64, [1]))
    proto.graph.node.append(helper.make_node("Gather", [output, at], [scores], axis=1))
    return replace(model, proto=proto), at, scores
