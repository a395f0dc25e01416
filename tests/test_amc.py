"""The agent of AMC: its budget, its states, its steps next to their formulas, and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.allocate.amc import GroupWalk, search_by_agent
from onnxprune.allocate.budget import make_budget
from onnxprune.allocate.selection import Candidates, select_candidates
from onnxprune.settings import Options

torch = pytest.importorskip("torch", reason="the agent needs torch: pip install 'onnxprune[torch]'")
from onnxprune.training import agent as agents  # noqa: E402
from onnxprune.training.agent import Agent  # noqa: E402

MODELS = Path(__file__).parents[1] / "models"
CNN = MODELS / "digits_cnn.onnx"
IMAGES = np.load(MODELS / "digits_calib.npz")["image"]


def make_candidates() -> Candidates:
    return select_candidates(onnxprune.analyze(CNN), Options(macs=0.4, target="none").resolved(False))


def test_every_walk_ends_within_the_budget_and_uses_it() -> None:
    c = make_candidates()
    walk, rng = GroupWalk(c, budget := make_budget(c, "macs", 0.4)), np.random.default_rng(0)
    for _ in range(30):
        counts = c.sizes
        for at in range(len(c.groups)):
            counts = walk.take(at, counts, float(rng.random()))
        assert budget.fits(counts)
    counts = c.sizes
    for at in range(len(c.groups)):
        counts = walk.take(at, counts, 1.0)
    assert budget.of(counts) > 0.9 * budget.allowed  # who keeps all that is possible leaves little over


def test_states_are_those_of_the_paper() -> None:
    c = make_candidates()
    walk = GroupWalk(c, budget := make_budget(c, "macs", 0.4))
    counts = walk.take(0, c.sizes, 0.5)
    state = walk.state(1, counts, 0.5)
    assert len(state) == 11 and (state >= 0).all() and (state <= 1).all()
    # conv2: the second of four groups, 64 of at most 128 filters on 32 of at most 64 inputs, 8 x 8 places, stride 1, 3 x 3
    np.testing.assert_allclose(state[:7], [1 / 3, 0.5, 0.5, 1, 1, 1, 1])
    assert state[8] == pytest.approx(1 - budget.of(counts) / budget.whole) and state[10] == 0.5


def test_a_step_of_the_agent_follows_its_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "BATCH", 2)
    agent, states = Agent(3, 0), [np.full(3, 0.2), np.full(3, 0.7)]
    agent.remember(states, [0.3, 0.4], 2.0)
    assert [t[2] for t in agent.memory] == [0.0, 0.0]  # the first reward is its own mean
    agent.memory.clear()
    agent.remember(states, [0.3, 0.4], 3.0)
    baseline = 0.95 * 2.0 + 0.05 * 3.0
    assert [t[2] for t in agent.memory] == pytest.approx([3.0 - baseline] * 2)
    s, after = (torch.tensor(np.array(x), dtype=torch.float32) for x in (states, [states[1], states[1]]))
    with torch.no_grad():
        ahead = agent.slow_critic(torch.cat([after, agent.slow_actor(after)], 1))[:, 0]
        wanted = torch.tensor([3.0 - baseline] * 2) + torch.tensor([1.0, 0.0]) * ahead
        q = agent.critic(torch.cat([s, torch.tensor([[0.3], [0.4]])], 1))[:, 0]
        slow = agent.slow_critic[0].weight.clone()
    seen = list[float]()
    monkeypatch.setattr(agents, "_descend", lambda optimizer, loss: seen.append(float(loss.detach())))
    agent.critic[0].weight.data += 1.0
    with torch.no_grad():
        q = agent.critic(torch.cat([s, torch.tensor([[0.3], [0.4]])], 1))[:, 0]
        value = agent.critic(torch.cat([s, agent.actor(s)], 1)).mean()
    agent.learn()
    assert seen == pytest.approx([float(((q - wanted) ** 2).mean()), -float(value)], rel=1e-5)
    np.testing.assert_allclose(agent.slow_critic[0].weight.detach(), slow + 0.01, rtol=1e-4, atol=1e-6)


def test_it_learns_where_channels_matter() -> None:
    """All that counts is how much the last group keeps: the agent finds it, and does better than as many random walks."""
    c = make_candidates()
    budget, at = make_budget(c, "macs", 0.4), c.analysis.at_of[c.groups[-1].name]

    def error(counts: np.ndarray) -> float:
        return float(np.exp(-4 * counts[at] / c.sizes[at] - counts[0] / c.sizes[0]))

    found = search_by_agent(c, budget, error, 0, lambda *_: None, 80)
    again = search_by_agent(c, budget, error, 0, lambda *_: None, 80)
    np.testing.assert_array_equal(found, again)
    first = search_by_agent(c, budget, error, 0, lambda *_: None, 20)
    assert budget.fits(found) and error(found) < error(first)


def test_a_plan_by_the_agent() -> None:
    how = {"macs": 0.4, "calib": [IMAGES[:64]], "check": False, "depth": False, "allocation": "amc"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_by_agent, "__defaults__", (12,))
        made = [onnxprune.prune(CNN, **how) for _ in range(2)]
    assert made[0].proto.SerializeToString() == made[1].proto.SerializeToString()
    assert made[0].report.macs.after <= 0.4 * made[0].report.macs.before
