"""The layers of a sparse model, for people to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from onnxprune.cli.console import facts, more, percent, plural, table, text
from onnxprune.cli.reports import RenderedReport
from onnxprune.cli.summary import listed, outcome, top

Report = Mapping[str, Any]
FEW_LAYERS = 24


def sparsified(report: Report, verbose: bool) -> RenderedReport:
    """What `sparsify` says when it is done; a warning where no layer was made sparse."""
    sparse = report["sparsity"]
    parts, rows = _of_layers(sparse["layers"], verbose), layer_facts(sparse, verbose)
    return Group(*parts, *outcome(report, rows)), "; ".join(
        filter(None, (why_none(sparse, verbose), report["not_compared"]))
    )


def why_none(sparse: Report, verbose: bool = False) -> str:
    """In words, why no layer was made sparse; empty where some were."""
    layers = sparse["layers"]
    if any(x["sparse"] for x in layers):
        return ""
    if not layers:
        return "nothing was made sparse: no operator multiplies with a constant matrix"
    why = top(Counter(x["reason"] or "no reason given" for x in layers), listed(verbose))
    could = any(x["eligible"] for x in layers) and sparse["options"]["layers"] == "likely"
    hint = "; '--layers eligible' takes every layer that the target can run" if could else ""
    return f"nothing was made sparse: {why}{hint}"


def layer_facts(sparse: Report, verbose: bool = False) -> list[tuple[str, object]]:
    """The lines about the pattern."""
    layers, options = sparse["layers"], sparse["options"]
    chosen = [x for x in layers if x["sparse"]]
    weights = sum(x["params"] or 0 for x in chosen)
    said = f"{sparse['pattern']} in {len(chosen)} of {plural(len(layers), 'layer')} ({weights:,} weights)"
    methods = Counter(x["method"] for x in chosen)
    how = ", ".join(f"{m} ({n})" if len(methods) > 1 else m for m, n in methods.most_common())
    rows: list[tuple[str, object]] = [("pattern", said), ("runs on", sparse["runs_on"])]
    if chosen:
        fitted = options["repair"] != "none" and any(x["error_before_repair"] is not None for x in chosen)
        repaired = f", repair {options['repair']}" if fitted else ""
        rows.append(("chosen by", how + repaired))
    left = Counter(x["reason"] for x in layers if not x["sparse"])
    if left:
        rows.append(("left dense", f"{plural(left.total(), 'layer')}: {top(left, listed(verbose))}"))
    notes = Counter(x["note"] for x in chosen if x["note"])
    rows += [("note", note) for note in notes]
    if sparse["permuted"]:
        gains = [x["after"] - x["before"] for x in sparse["permuted"]]
        rows.append(
            ("permuted", f"{plural(len(gains), 'group')}, whose readers keep up to {100 * max(gains):.1f} points more")
        )
    return rows


def _of_layers(layers: Sequence[Report], verbose: bool) -> list[RenderableType]:
    shown = layers if verbose else layers[:FEW_LAYERS]
    if not shown:
        return []
    head = ("layer", "operator", ">outputs x inputs", "kernels", ">kept", ">error", "remark")
    parts: list[RenderableType] = [table(head, map(_row, shown))]
    if len(shown) < len(layers):
        parts.append(more(len(layers) - len(shown), "layers"))
    return [*parts, ""]


def _row(x: Report) -> list[object]:
    kernel = f" x {x['positions']}" if x["positions"] > 1 else ""
    shape = f"{x['outputs']} x {x['inputs']}{kernel}" if x["params"] else ""
    picked = {(True, True): "sparse, likely", (True, False): "sparse, eligible", (False, False): "not sparse"}
    picked[(None, None)] = ""  # type: ignore[index]
    error = "" if x["error"] is None else f"{x['error']:.3g}"
    kept = text(percent(x["kept_magnitude"]), "bold") if x["sparse"] else "dense"
    verdict = picked[(x["eligible"], x["likely"])]
    return [text(x["name"]), x["op"], shape, verdict, kept, error, text(x["reason"] or "", "dim")]


def checked(report: Report, verbose: bool) -> Group:
    """What `validate --pattern` says."""
    layers = report["layers"]
    wrong = [x for x in layers if x["checked"] and not x["holds"]]
    shown = layers if verbose else wrong[:FEW_LAYERS]
    rows = [[text(x["name"]), x["op"], percent(x["zeros"]), _verdict(x), text(x["reason"] or "", "dim")] for x in shown]
    parts: list[RenderableType] = (
        [table(("layer", "operator", ">zeros", "pattern", "remark"), rows), ""] if rows else []
    )
    if len(wrong) > len(shown):
        parts += [more(len(wrong) - len(shown), "layers that break the pattern"), ""]
    count = sum(x["checked"] for x in layers)
    others = sum(bool(x["holds"]) for x in layers if not x["checked"])
    said = f"{report['pattern']} holds in {count - len(wrong)} of {plural(count, 'layer')} that were checked"
    if others:
        said += f", and in {others} of {len(layers) - count} others"
    return Group(*parts, facts([("pattern", said)]))


def _verdict(x: Report) -> object:
    if x["holds"] is None:
        return "cannot be told"
    if x["holds"]:
        return "holds"
    return text(f"broken {plural(x['broken'], 'time')}", "bold red" if x["checked"] else "dim")
