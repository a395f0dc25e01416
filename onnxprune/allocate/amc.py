"""AMC: an agent walks over the groups, says what share each keeps, and learns from the measured error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from onnxprune.allocate.budget import Budget, explain_unreachable
from onnxprune.allocate.search import list_allowed
from onnxprune.allocate.selection import Candidates, Counts, change
from onnxprune.axes import first
from onnxprune.gradients import require_torch
from onnxprune.graph.view import read_attribute
from onnxprune.graph.weights import Array
from onnxprune.groups import Group
from onnxprune.progress import Progress

EPISODES = 160  # measurements
WARMUP = 0.25  # the share of them that are drawn at random
LAST_NOISE = 0.05  # of the deviation at the start, in the last episode
FLOOR = 0.2  # the least share that the groups still to come are taken to keep
LEAST_ERROR = 1e-12


@dataclass(frozen=True)
class GroupWalk:
    """The groups of a model, one after the other, within a budget."""

    c: Candidates
    budget: Budget

    @cached_property
    def floor(self) -> Counts:
        """What groups that are still to come keep at the least: a fifth, where the budget leaves room for that."""
        fifth = self.c.settled(np.ceil(FLOOR * self.c.sizes).astype(np.int64))
        return fifth if self.budget.fits(fifth) else self.c.smallest

    @cached_property
    def places(self) -> list[int]:
        return [self.c.analysis.at_of[g.name] for g in self.c.groups]

    @cached_property
    def choices(self) -> list[list[int]]:
        return [list_allowed(self.c, g) for g in self.c.groups]

    @cached_property
    def fixed(self) -> Array:
        """What of the states no action changes: t, n, c, h, w, stride, k, FLOPs[t], each in [0, 1]."""
        rows = np.array([[at, *self._describe(g), self._cost_of(at)] for at, g in enumerate(self.c.groups)], float)
        fixed: Array = rows / np.maximum(rows.max(0), 1e-12)
        return fixed

    def _cost_of(self, at: int) -> float:
        """What the layers of a group cost that go with it."""
        one = change(self.c.sizes, self.places[at], 1)
        return self.budget.of(self.c.sizes) - self.budget.of(one)

    def _describe(self, g: Group) -> tuple[float, ...]:
        """Channels, what each is made of, the places of the map that it is made for, stride and kernel; 1 where there is none."""
        a = self.c.analysis
        m = next((m for m in g.members if m.role == "out" and m.sites), g.members[0])
        shape = a.coupling.weights[m.tensor].shape
        kernel = math.prod(shape[2:])
        inputs = math.prod(shape) / max(g.size * kernel, 1)
        node = a.flat.proto.graph.node[m.sites[0][0]] if m.sites else None
        known = a.coupling.trace.shape(node.output[0]) if node is not None else None
        places = [first(s) for s in (known or ())[2:]][:2]
        height, width = [*places, 1, 1][:2]
        stride = max(read_attribute(node, "strides", [1])) if node is not None else 1
        return g.size, inputs, height, width, stride, kernel

    def state(self, at: int, counts: Counts, last: float) -> Array:
        """The state at a group: its own, what is saved by now, what is still to come, and the last action.

        Source: He et al. 2018, AMC, arXiv 1802.03494, section 3.1
        """
        whole = self.budget.whole
        reduced = (whole - self.budget.of(counts)) / whole
        rest = float(self.fixed[at + 1 :, -1].sum()) / max(float(self.fixed[:, -1].sum()), 1e-12)
        return np.array([*self.fixed[at], reduced, rest, last], np.float32)

    def take(self, at: int, counts: Counts, share: float) -> Counts:
        """The same counts where a group keeps about a share; less, where the budget would not fit whatever comes.

        Source: the same, algorithm 1
        """
        place, size = self.places[at], self.c.groups[at].size
        rest = change(counts, self.places[at:], self.floor[self.places[at:]])
        tries = [n for n in reversed(self.choices[at]) if self.budget.fits(change(rest, place, n))]
        count = min(tries or self.choices[at][:1], key=lambda n: abs(n - share * size))
        return change(counts, place, count)


def search_by_agent(
    c: Candidates,
    budget: Budget,
    error: Callable[[Counts], float],
    seed: int,
    progress: Progress,
    episodes: int = EPISODES,
) -> Counts:
    """The best counts of so many episodes, each of which measures one error.

    The reward is -log error: errors of different budgets are orders of magnitude apart.

    Source: He et al. 2018, AMC, arXiv 1802.03494 (without fine-tuning; channels go by their scores)
    Raises OnnxPruneError where the budget is out of reach, or torch is missing.
    """
    require_torch()
    from onnxprune.training.agent import NOISE, Agent

    walk = GroupWalk(c, budget)
    if not budget.fits(c.smallest):
        raise explain_unreachable(c, budget)
    agent, known = Agent(len(walk.state(0, c.sizes, 1.0)), seed) if c.groups else None, dict[bytes, float]()
    best, least = c.smallest, math.inf
    warmup = max(1, round(WARMUP * episodes))
    for episode in range(episodes if agent else 0):
        assert agent is not None
        decay = LAST_NOISE ** (max(0, episode - warmup) / max(episodes - warmup, 1))
        noise = None if episode < warmup else NOISE * decay
        states, actions, counts = _walk(walk, partial(agent.act, noise=noise))
        if (key := counts.tobytes()) not in known:
            known[key] = error(counts)
        agent.remember(states, actions, -math.log(max(known[key], LEAST_ERROR)))
        for _ in states if episode >= warmup else ():
            agent.learn()
        if known[key] < least:
            best, least = counts, known[key]
        progress(episode + 1, episodes)
    return best


def _walk(walk: GroupWalk, act: Callable[[Array], float]) -> tuple[list[Array], list[float], Counts]:
    """One episode: the states, the shares that were really kept, and the counts."""
    states, actions, counts, last = list[Array](), list[float](), walk.c.sizes, 1.0
    for at, g in enumerate(walk.c.groups):
        states.append(walk.state(at, counts, last))
        counts = walk.take(at, counts, act(states[-1]))
        last = float(counts[walk.places[at]]) / g.size
        actions.append(last)
    return states, actions, counts
