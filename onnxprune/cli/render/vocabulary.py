"""What became of a vocabulary, for people to read."""

from __future__ import annotations

from rich.console import Group

from onnxprune.cli.console import Facts, count, facts, percent, relative, text
from onnxprune.report.types import VocabularyReport
from onnxprune.wording import plural


def render_vocabulary(report: VocabularyReport) -> Group:
    """What `vocabulary` says: how many tokens stay and why, what the model lost, and how far the outputs are apart."""
    tokens, kept = report.tokens, report.kept
    whys = (
        (kept.corpus, f"used by the corpus ({count(report.corpus_ids)} ids)"),
        (kept.asked, "by --keep-ids"),
        (kept.graph, "known to the graph"),
        (kept.tokenizer, "needed by the tokenizer"),
    )
    rows: Facts = [("tokens", f"{count(tokens.before)} -> {count(tokens.after)}")]
    rows.append(("kept", ", ".join(f"{n:,} {why}" for n, why in whys if n)))
    rows.append(("ids in", ", ".join(report.inputs)))
    rows.append(("scores in", ", ".join(report.outputs) or "no output"))
    for name, size in (("parameters", report.params), ("MACs", report.macs), ("bytes", report.bytes)):
        share = percent(size.after, size.before) if size.after is not None else ""
        rows.append((name, f"{count(size.before)} -> {count(size.after)} ({share})" if share else "unknown"))
    if report.error is not None:
        rows.append(
            ("outputs", f"relative L2 {report.error:.2g} on random texts of the {plural(tokens.after or 0, 'token')}")
        )
    wrote = f"wrote {' and '.join(map(relative, report.files))}" if report.files else "nothing was written"
    return Group(facts(rows), "", text(wrote, "bold"))
