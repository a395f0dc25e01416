"""A plan: the channels that stay, group by group, and the units that go. Plain data, JSON both ways, bound to its model."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.axes import Var
from onnxprune.errors import PlanError
from onnxprune.experts import Expert, drop_experts, find_experts
from onnxprune.graph.model import Model
from onnxprune.groups import Analysis, Group
from onnxprune.units import Unit, find_units

FORMAT = 1
FREE = ("dead", "constant", "merged")  # why a channel can be removed and no output changes


@dataclass(frozen=True)
class Choice:
    """A plan's entry for one group: its size, the kept indices (in their new order), and a remark for the report.

    `free` has those of the removed channels that their consumers make up for, by why they can: dead, constant, merged.
    """

    size: int
    keep: tuple[int, ...]
    reason: str = ""
    free: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Plan:
    """The kept indices of each group, and the names of the units that go; groups that it does not name stay whole."""

    model: str  # fingerprint of the model that it was made for
    groups: Mapping[str, Choice] = field(default_factory=dict)
    timings: str = ""  # a hash of the times that it was made with; with the same, the same plan
    units: tuple[str, ...] = ()  # residual branches, layers (units.py) and experts (experts.py) that go

    def __repr__(self) -> str:
        size = sum(c.size for c in self.groups.values())
        kept = sum(len(c.keep) for c in self.groups.values())
        units = f", {len(self.units)} units removed" if self.units else ""
        return f"Plan({kept} of {size} channels kept in {len(self.groups)} groups{units})"

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON data: lists, dictionaries, text and numbers."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "model": self.model,
            "groups": {
                name: {"size": c.size, "keep": list(c.keep)}
                | ({"reason": c.reason} if c.reason else {})
                | ({"free": {why: list(some) for why, some in c.free.items()}} if c.free else {})
                for name, c in self.groups.items()
            },
        }
        data |= {"units": list(self.units)} if self.units else {}
        return data | ({"timings": self.timings} if self.timings else {})

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, by write-then-rename; each list of kept channels on a line of its own."""
        from onnxprune.graph.files import write_text

        text = json.dumps(self.to_json(), indent=1)
        text = re.sub(
            r"\[\n[^]]*]", lambda m: json.dumps(json.loads(m[0])), text
        )  # no string of JSON holds a line break
        write_text(Path(path), text + "\n")

    @staticmethod
    def from_json(data: Any) -> Plan:
        """A plan from what JSON holds. Raises PlanError."""
        try:
            if data["format"] != FORMAT:
                raise PlanError(f"the plan has format {_shown(data['format'])}, this version reads format {FORMAT}")
            groups = {
                str(name): Choice(
                    _index(g["size"]), _indices(g["keep"]), str(g.get("reason", "")), _free(g.get("free", {}))
                )
                for name, g in data["groups"].items()
            }
            units = data.get("units", [])
            if not isinstance(units, list) or not all(isinstance(u, str) for u in units):
                raise PlanError(
                    f"the plan's units are {_shown(units)}; expected a list of names, as 'inspect' shows them"
                )
            return Plan(str(data["model"]), groups, str(data.get("timings", "")), tuple(units))
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise PlanError(f"not a plan: {type(e).__name__} {e}; expected keys format, model, groups") from None

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan. Raises PlanError."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_once)
        except OSError as e:
            raise PlanError(f"cannot read the plan '{path}': {e.strerror}") from None
        except (ValueError, RecursionError) as e:
            raise PlanError(f"the plan '{path}' is not JSON: {e}") from None
        return Plan.from_json(data)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; one key twice is an error."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise PlanError(f"the plan has {twice!r} twice; which of them holds? remove one")
    return entries


def _indices(keep: Any) -> tuple[int, ...]:
    if not isinstance(keep, list):
        raise PlanError(f"the plan keeps {_shown(keep)}; expected a list of channels, as in [0, 2, 3]")
    return tuple(map(_index, keep))


def _free(free: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(free, dict) or not set(free) <= set(FREE):
        raise PlanError(f"the plan calls {_shown(free)} free; expected lists of channels under {', '.join(FREE)}")
    return {why: _indices(some) for why, some in free.items()}


def _index(value: Any) -> int:
    """A channel, or a count of them: a whole number that an array can have as an index."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise PlanError(f"the plan has {_shown(value)} where a channel is expected, a whole number of 0 or more")
    return value


def _shown(value: Any, most: int = 40) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**most else "a number of many digits"
    return text if len(text) <= most else f"{text[:most]} .."


def compute_fingerprint(model: Model) -> str:
    """A hash of what a plan depends on: operators, wiring, and the weights' names and shapes (not their values)."""
    h = hashlib.sha256()
    for node in model.proto.graph.node:
        h.update(repr((node.domain, node.op_type, list(node.input), list(node.output))).encode())
    for name, w in model.weights.items():
        h.update(repr((name, w.data_type, tuple(int(n) for n in w.shape))).encode())
    return h.hexdigest()[:32]


def read_units(plan: Plan, analysis: Analysis) -> list[Unit]:
    """The branches and layers that a plan removes, in the model's order; experts are channels, see `read_keep`.

    Raises PlanError where it names a unit that the model does not have.
    """
    return sorted((u for u in _named_units(plan, analysis) if isinstance(u, Unit)), key=lambda unit: unit.node)


def find_removed_experts(plan: Plan, analysis: Analysis) -> list[Expert]:
    """The experts that a plan removes, by their names or as channels. Raises PlanError where the plan does not fit the model."""
    if not (plan.groups or plan.units):
        return []
    keep, vars_ = read_keep(plan, analysis), {g.name: g.vars[0] for g in analysis.groups}
    gone = (e for e in find_experts(analysis) if vars_[e.group] in keep and e.index not in keep[vars_[e.group]])
    return list(gone)


def _named_units(plan: Plan, analysis: Analysis) -> list[Unit | Expert]:
    if not plan.units:
        return []
    _check_model(plan, analysis)
    known: dict[str, Unit | Expert] = {expert.name: expert for expert in find_experts(analysis)}
    if not known.keys() >= set(plan.units):
        known |= {unit.name: unit for unit in find_units(analysis)}
    unknown = next((name for name in plan.units if name not in known), None)
    if unknown is not None:
        raise PlanError(f"the plan removes a unit '{unknown}' that the model does not have; see 'onnxprune inspect'")
    return [known[name] for name in dict.fromkeys(plan.units)]


def _check_model(plan: Plan, analysis: Analysis) -> None:
    if (plan.groups or plan.units) and plan.model != compute_fingerprint(analysis.model):
        raise PlanError("the plan was made for another model (fingerprints differ); make one with 'prune --plan-out'")


def read_keep(plan: Plan, analysis: Analysis) -> dict[Var, np.ndarray]:
    """The plan as kept channels of each Var. Raises PlanError where it does not fit the model."""
    known = analysis.by_name
    _check_model(plan, analysis)
    keep: dict[Var, np.ndarray] = {}
    for name, choice in plan.groups.items():
        if name not in known:
            raise PlanError(f"the plan names a group '{name}' that the model does not have; see 'onnxprune inspect'")
        keep |= map_vars(known[name], _check_kept(name, choice, known[name]))
    gone = defaultdict[str, list[Expert]](list)
    for unit in _named_units(plan, analysis):
        if isinstance(unit, Expert):
            gone[unit.group].append(unit)
    for name, experts in gone.items():
        (var,) = known[name].vars
        keep[var] = drop_experts(keep.get(var, np.arange(known[name].size)), experts)
    return keep


def _check_kept(name: str, choice: Choice, group: Group) -> np.ndarray:
    """The channels of a group that a plan keeps. Raises PlanError where they do not fit it."""
    indices = np.asarray(choice.keep, np.int64)
    if choice.size != group.size:
        raise PlanError(f"the plan says group '{name}' has {choice.size} channels, the model has {group.size}")
    if not len(indices):
        raise PlanError(f"the plan empties group '{name}'; at least one channel must be kept")
    if indices.min() < 0 or indices.max() >= group.size or len(set(choice.keep)) != len(choice.keep):
        raise PlanError(f"the plan keeps channels of group '{name}' that are repeated or outside [0, {group.size})")
    return indices


def map_vars(group: Group, indices: Sequence[int] | np.ndarray) -> dict[Var, np.ndarray]:
    """The kept channels of a group as those of each of its Vars; empty where it stays as it is."""
    stay = np.asarray(indices, np.int64)
    if len(stay) == group.size and np.array_equal(stay, np.arange(group.size)):
        return {}
    keep: dict[Var, np.ndarray] = {}
    at = 0
    for v in group.vars:
        keep[v] = stay[(stay >= at) & (stay < at + v.size)] - at
        at += v.size
    return keep
