"""`onnxprune vocabulary`: remove the tokens that a corpus never uses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.app import FAILED_CHECK, app
from onnxprune.cli.options import JSON, MODEL, REPORT, output

LARGEST = 1e-4  # relative L2; the outputs are equal but for rounding


@app.command(
    epilog="Examples:\n\nonnxprune vocabulary model.onnx --corpus ids.npz -o smaller.onnx --keep-ids 0-2\n\n"
    "onnxprune vocabulary model.onnx --corpus ids.txt --tokenizer tokenizer.json -o smaller.onnx"
)
def vocabulary(
    model: MODEL,
    out: Annotated[Path, output("smaller")],
    corpus: Annotated[
        list[Path],
        typer.Option(
            metavar="IDS",
            help="The ids of texts as the model sees them: an .npz or .npy, or a .txt of numbers; repeatable.",
        ),
    ],
    keep_ids: Annotated[
        str, typer.Option(metavar="IDS", help="Keep these tokens, used or not: the special ones, as in 0-2,50256.")
    ] = "",
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="A tokenizer.json of Hugging Face's tokenizers: keep what it needs, and write it with the new ids.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME", help="The input of ids (by default that of the largest table); repeatable."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--validate/--no-validate", help="Compare both models on random texts of the remaining tokens."),
    ] = True,
    report: REPORT = None,
    json: JSON = False,
) -> None:
    """Remove the tokens that a corpus never uses, without loss: rows of the embedding, columns of the head and its bias.

    For texts of the remaining tokens the scores of these tokens are the original's. The tokens get
    new ids, in their order: OUT.ids.json lists the old id of each new one. Exit status 1 if the
    outputs differ by more than rounding.
    """
    from onnxprune.cli.paths import check_outputs
    from onnxprune.vocabulary.ids import read_ranges
    from onnxprune.vocabulary.prune import name_map, name_tokenizer

    written = {"-o": out, "--report": report, "the id map": name_map(out)}
    written |= {"the tokenizer": name_tokenizer(out)} if tokenizer else {}
    check_outputs(written, [model, tokenizer, *corpus])
    asked = read_ranges(keep_ids)

    import onnxprune
    from onnxprune.cli.console import emit, emit_json, warn
    from onnxprune.cli.progress import show_progress
    from onnxprune.cli.render import render_vocabulary
    from onnxprune.graph.files import write_text
    from onnxprune.report import render_json

    with show_progress() as progress:
        progress("analyze", 0, 0)
        pruned = onnxprune.prune_vocabulary(
            model, corpus, out, keep_ids=asked, inputs=inputs or (), tokenizer=tokenizer, check=check
        ).report
    if report:
        write_text(report, render_json(pruned))
    if json:
        emit_json(pruned)
    else:
        emit(render_vocabulary(pruned))
    if check and not (pruned.error is not None and pruned.error <= LARGEST):
        warn(f"the outputs differ: relative L2 {pruned.error}; this is a defect of onnxprune, report the model")
        raise typer.Exit(FAILED_CHECK)
