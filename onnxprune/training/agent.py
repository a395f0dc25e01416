"""An agent that learns one number in [0, 1] from a state: DDPG, with the numbers of AMC."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from onnxprune.graph.weights import Array

HIDDEN = 300  # neurons of each of two layers
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3
FOLLOW = 0.01  # how much of the networks the targets take over at each step
BATCH, KEPT = 64, 2000  # transitions of a step, and of the buffer
NOISE = 0.5  # the deviation of the first actions
SMOOTHING = 0.95  # of the mean reward, which is subtracted

Transition = tuple[Array, float, float, Array, bool]  # state, action, reward, next state, was it the last one?


class Agent:
    """Actor and critic with two hidden layers each, and slow copies of both.

    Source: He et al. 2018, AMC, arXiv 1802.03494, section 3.2 and 4; Lillicrap et al. 2016, DDPG, arXiv 1509.02971
    """

    def __init__(self, features: int, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = nn.Sequential(*_layers(features), nn.Sigmoid())
            self.critic = nn.Sequential(*_layers(features + 1))
        self.slow_actor, self.slow_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=rate)
            for net, rate in ((self.actor, ACTOR_RATE), (self.critic, CRITIC_RATE))
        ]
        self.rng, self.draw = np.random.default_rng([seed, 1]), random.Random(seed)
        self.memory: deque[Transition] = deque(maxlen=KEPT)
        self.baseline: float | None = None

    @torch.no_grad()
    def act(self, state: Array, noise: float | None) -> float:
        """The action in a state, from a normal distribution of that deviation that is cut to [0, 1]; None: any action."""
        if noise is None:
            return float(self.rng.random())
        mean = float(self.actor(_tensor(state)))
        while True:
            action = mean + noise * float(self.rng.standard_normal())
            if 0 <= action <= 1:
                return action

    def remember(self, states: Sequence[Array], actions: Sequence[float], reward: float) -> None:
        """An episode; each of its steps has its reward, relative to the mean of those before."""
        before = reward if self.baseline is None else self.baseline
        self.baseline = SMOOTHING * before + (1 - SMOOTHING) * reward
        following = [*states[1:], states[-1]]
        for at, (state, action, after) in enumerate(zip(states, actions, following, strict=True)):
            self.memory.append((state, action, reward - self.baseline, after, at == len(states) - 1))

    def learn(self) -> None:
        """One step: y = r - b + Q'(s', mu'(s')), the critic toward y, the actor up the critic."""
        if len(self.memory) < BATCH:
            return
        parts = zip(*self.draw.sample(list(self.memory), BATCH), strict=True)
        states, actions, rewards, after, last = (_tensor(np.array(part, np.float32)) for part in parts)
        with torch.no_grad():
            ahead = self.slow_critic(torch.cat([after, self.slow_actor(after)], 1))[:, 0]
            wanted = rewards + (1 - last) * ahead
        for_actor, for_critic = self.optimizers
        _descend(for_critic, F.mse_loss(self.critic(torch.cat([states, actions[:, None]], 1))[:, 0], wanted))
        _descend(for_actor, -self.critic(torch.cat([states, self.actor(states)], 1)).mean())
        self._follow()

    @torch.no_grad()
    def _follow(self) -> None:
        for slow, net in ((self.slow_actor, self.actor), (self.slow_critic, self.critic)):
            for p, q in zip(slow.parameters(), net.parameters(), strict=True):
                p.lerp_(q, FOLLOW)


def _layers(features: int) -> list[nn.Module]:
    last = nn.Linear(HIDDEN, 1)
    nn.init.uniform_(last.weight, -3e-3, 3e-3)
    nn.init.uniform_(last.bias, -3e-3, 3e-3)
    return [nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), last]


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _tensor(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x, np.float32))
