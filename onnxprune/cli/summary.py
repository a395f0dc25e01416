"""The report of `prune`, and the numbers of a comparison, for people to read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from onnxprune.cli.console import count, duration, facts, more, percent, plural, relative, table, text

Report = Mapping[str, Any]
Facts = list[tuple[str, object]]
FEW_GROUPS, FEW_OUTPUTS, FEW_REASONS, FEW_LAYERS = 24, 8, 3, 3
WRONG = 0.1  # the relative error from which on a layer is said to go wrong
INSPECTED = "see 'onnxprune inspect'"  # which tells of frozen axes


def pruned(report: Report, how: str, verbose: bool, more: Facts) -> Group:
    """What `prune` says when it is done: the groups, what is left, how far the outputs moved, where the file is."""
    parts: list[RenderableType] = []
    if report["groups"]:
        parts += [*_groups(report["groups"], verbose), ""]
    rows: Facts = [("channels", _channels(report["groups"])), ("chosen by", how), *_notes(report, verbose), *more]
    return Group(*parts, *outcome(report, rows))


def outcome(report: Report, rows: Facts) -> list[RenderableType]:
    """What is left, what there is to say of it, how far the outputs moved, where the file is."""
    rows = list(rows)
    if seen := report["calibration"]:
        rows.append(("calibrated on", f"{seen['samples']} samples, {seen['data']}"))
        rows += judged_by(report["judged_by"])
    if repair := report["repair"]:
        rows.append(("repaired", _repaired(repair)))
    rows += [*_comparison(report["error"]), *_machine(report)] if report["error"] else []
    outputs = _outputs(report["error"]) if report["error"] else []
    return [_sizes(report), "", facts(rows), *outputs, "", _done(report)]


def judged_by(stand_ins: Mapping[str, Sequence[str]]) -> Facts:
    """What errors were measured on where an output does not stand for itself."""
    said = (f"{', '.join(by) or 'nothing'} in place of '{name}'" for name, by in stand_ins.items())
    return [("judged by", f"{'; '.join(said)} (no tensor, or the data decide its size)")] if stand_ins else []


def _repaired(repair: Report) -> str:
    """What the repair did to the error of the outputs on the calibration data."""
    before, after = (f"{repair[k]:.4g}" for k in ("error_before", "error_after"))
    if not repair["layers"] and repair["method"] != "merge":
        return "nothing: there was no layer to fit" + (
            f", {len(repair['left_out'])} left out" if repair["left_out"] else ""
        )
    if not repair["kept"]:
        return f"nothing: every change raised the relative L2 of {before}"
    said = f"{plural(repair['kept'], 'layer')}, by {repair['method']}: relative L2 {before} -> {after}"
    return said + (f"; {len(repair['left_out'])} left out" if repair["left_out"] else "")


def _done(report: Report) -> Text:
    took = f"{sum(report['seconds'].values()):.1f} s"
    if report["output"] is None:
        return text(f"dry run: no model was written ({took})", "bold")
    return text(f"wrote {' and '.join(report['files'])} in {took}", "bold")


def _sizes(report: Report) -> RenderableType:
    rows: list[tuple[object, ...]] = []
    for name, key, unit in (("parameters", "params", ""), ("MACs", "macs", ""), ("file", "bytes", "B")):
        before, after = report[key]["before"], report[key]["after"]
        if before is None or (after is None and key == "bytes"):
            why = "unknown, 'onnxprune inspect' says why" if key == "macs" else "not written"
            rows.append((text(name, "bold"), count(before, unit), why, ""))
        else:
            left = percent(after, before)
            rows.append((text(name, "bold"), count(before, unit), count(after, unit), text(left, "bold green")))
    for name, key, show in (("latency", "latency", duration), ("peak memory", "peak_memory", _bytes)):
        if (pair := report[key]) and pair["before"] is not None and pair["after"] is not None:
            left = percent(pair["after"], pair["before"])
            rows.append((text(name, "bold"), show(pair["before"]), show(pair["after"]), text(left, "bold green")))
    return table(("", ">before", ">after", ">left"), rows)


def _bytes(n: int) -> str:
    return count(n, "B")


def _groups(groups: Sequence[Report], verbose: bool) -> list[RenderableType]:
    shown = groups if verbose else groups[:FEW_GROUPS]
    parts: list[RenderableType] = [table(("group", "kind", ">channels", ">kept", "remark"), map(_group, shown))]
    if len(shown) < len(groups):
        parts.append(more(len(groups) - len(shown), "groups"))
    return parts


def _group(g: Report) -> list[object]:
    whole = g["kept"] == g["size"]
    remark = "; ".join(r for r in ("" if g["exact"] else "approximate", g["reason"] or "") if r)
    return [text(g["name"]), g["kind"], g["size"], text(g["kept"], "dim" if whole else "bold"), text(remark, "dim")]


def _channels(groups: Sequence[Report]) -> str:
    if not groups:
        return "the model has no group that could be pruned"
    size, kept = sum(g["size"] for g in groups), sum(g["kept"] for g in groups)
    changed = sum(g["kept"] < g["size"] for g in groups)
    return f"{size - kept:,} of {size:,} removed, from {changed} of {plural(len(groups), 'group')}"


def _notes(report: Report, verbose: bool) -> Facts:
    groups = report["groups"]
    rows: Facts = []
    whole = Counter(g["reason"] or "no reason given" for g in groups if g["kept"] == g["size"])
    if whole:
        rows.append(("left whole", f"{plural(whole.total(), 'group')}: {top(whole, listed(verbose))}"))
    if any(not g["exact"] and g["kept"] < g["size"] for g in groups):
        rows.append(
            ("approximate", "an operator mixes along these channels (a norm's mean, say): valid, but not neutral")
        )
    frozen = Counter(f["reason"] for f in report["frozen"] if not f["structural"])
    if frozen:
        rows.append(("frozen", f"{plural(frozen.total(), 'weight axis', 'weight axes')}: {top(frozen, INSPECTED)}"))
    return rows


def listed(verbose: bool) -> str:
    """Where everything is listed."""
    return "listed above" if verbose else "see --verbose"


def top(reasons: Counter[str], where: str, most: int = FEW_REASONS) -> str:
    """The most frequent reasons with their counts, and where the others are."""
    said = [f"{reason} ({n})" if n > 1 else reason for reason, n in reasons.most_common(most)]
    rest = len(reasons) - len(said)
    return "; ".join(said + ([f"{plural(rest, 'more reason')}, {where}"] if rest else []))


def why_nothing(report: Report, verbose: bool = False) -> str:
    """In words, why no channel went; empty where some did, or weights became zero instead."""
    groups, sparse = report["groups"], report["sparsity"]
    if any(g["kept"] < g["size"] for g in groups) or (sparse and any(x["sparse"] for x in sparse["layers"])):
        return ""
    if groups:
        return "nothing was removed: " + top(Counter(g["reason"] or "no reason given" for g in groups), listed(verbose))
    frozen = Counter(f["reason"] for f in report["frozen"] if not f["structural"])
    why = top(frozen, INSPECTED) or "it has no weights with channels that both a producer and a consumer share"
    return f"nothing was removed, the model has no group that could be pruned: {why}; see 'onnxprune inspect'"


# how far the outputs moved


def compared(report: Report) -> Group:
    """What `validate` says: both models' sizes, how far the outputs are apart and where that begins, each output."""
    return Group(_sizes(report), "", facts([*_comparison(report), *_machine(report)]), *_outputs(report))


def _comparison(error: Report) -> Facts:
    outputs = list(error["outputs"].values())
    rows: Facts = [("compared on", _measured(error))]
    rows.append(("error", _output(outputs[0]) if len(outputs) == 1 else _numbers(error)))
    if error["top1_agreement"] is not None:
        rows.append(("top-1", f"the same class for {percent(error['top1_agreement'])} of the samples"))
    if error["accuracy"]:
        rows.append(("accuracy", text(_accuracy(error), "bold green")))
    rows += [("non-finite", text(t, "bold red")) for t in _nonfinite(error)]
    return rows


def _outputs(error: Report) -> list[RenderableType]:
    outputs = [(name, _output(o)) for name, o in error["outputs"].items()]
    if len(outputs) < 2:
        return []
    parts: list[RenderableType] = ["", table(("output", "error"), outputs[:FEW_OUTPUTS])]
    if len(outputs) > FEW_OUTPUTS:
        parts.append(text(f"... and {len(outputs) - FEW_OUTPUTS} more outputs (--json lists them)", "dim"))
    return parts


def _accuracy(error: Report) -> str:
    before, after = (percent(error["accuracy"][when]) or "unknown" for when in ("before", "after"))
    drop = error["accuracy_drop"]
    return f"{before} -> {after}" + (f", {100 * abs(drop):.1f} points {'less' if drop > 0 else 'more'}" if drop else "")


def _machine(report: Report) -> Facts:
    """Which layers go wrong, and how much faster it is."""
    found = report["reconstruction"]
    rows: Facts = [("layers", _layers(found))] if found and (found["layers"] or found["left_out"]) else []
    speed, latency = report["measures"], report["latency"]
    said = [f"{speed['speedup_theoretical']:.2f}x by MACs"] if speed["speedup_theoretical"] else []
    if latency:
        runs = f"median of {latency['runs']} runs with {plural(latency['samples'], 'sample')}"
        said.append(f"{speed['speedup_measured']:.2f}x measured here, {runs}")
    return rows + ([("speed-up", "; ".join(said))] if said else [])


def _layers(found: Report) -> str:
    layers = [layer for layer in found["layers"] if layer["relative_l2"] is not None]
    if not layers:
        return f"none could be compared: {next(iter(found['left_out'].values()), 'no finite numbers')}"
    worst = sorted(layers, key=lambda layer: -layer["relative_l2"])[:FEW_LAYERS]
    first = next((layer for layer in layers if layer["relative_l2"] > WRONG), None)
    if first is None:
        return f"no error above {WRONG:g}; the largest is {_layer(worst[0])}"
    at = f"{layers.index(first) + 1} of {len(layers)}"
    return f"first error above {WRONG:g}: {_layer(first)} ({at}); worst: {', '.join(map(_layer, worst))}"


def _layer(layer: Report) -> str:
    return f"{layer['name']} {layer['relative_l2']:.3g}"


def _numbers(o: Report) -> str:
    if o["relative_l2"] is None and o["max_abs"] is None:
        return "no finite numbers to compare"
    if o["max_abs"] == 0:
        rest = max(o["nonfinite_reference"], o["nonfinite_candidate"])
        return (
            f"none where both are finite; {rest:,} values cannot be compared" if rest else "none, the outputs are equal"
        )
    said = [("relative L2", o["relative_l2"], ""), ("cosine", o["cosine"], ""), ("SQNR", o["sqnr_db"], " dB")]
    said.append(("largest", o["max_abs"], ""))
    return ", ".join(f"{name} {value:.4g}{unit}" for name, value, unit in said if value is not None)


def _output(o: Report) -> str:
    if "error" in o:
        return f"not compared: {o['error']}"
    if "mismatch" in o:
        return "empty" if o["mismatch"] is None else f"{percent(o['mismatch'])} of the elements differ"
    return _numbers(o)


def _nonfinite(error: Report) -> list[str]:
    n = error["nonfinite"]
    return (
        [f"{n['candidate']:,} NaN or infinite values, the original has {n['reference']:,}"] if any(n.values()) else []
    )


def _measured(error: Report) -> str:
    random = str(error["data"]).startswith("random")
    where = error["data"].replace("random seed", "random inputs, seed") if random else relative(str(error["data"]))
    sizes = "".join(f", {name} = {n}" for name, n in error["dynamic_sizes"].items()) if random else ""
    hint = "; --data FILE.npz measures on yours" if random else ""
    dropped = f", {error['dropped']} left over" if error["dropped"] else ""
    return f"{plural(error['samples'], 'sample')}, {where}{sizes}{dropped}{hint}"


# errors of groups


def sensitivities(report: Report) -> Group:
    """A line for each group, a column for each ratio; the most sensitive first."""
    groups = sorted(report["groups"], key=lambda g: -max((p["error"] for p in g["points"]), default=0.0))
    most = max((len(g["points"]) for g in groups), default=0)
    rows = [
        [text(g["name"]), g["size"], *(f"{p['error']:.4g} ({p['kept']})" for p in g["points"])]
        + [""] * (most - len(g["points"]))
        for g in groups
    ]
    columns = [">error (channels kept)" if not i else ">" for i in range(most)]
    judged = [facts(judged_by(report["judged_by"]))] if "judged_by" in report else []
    return Group(table(("group", ">channels", *columns), rows), *judged)
