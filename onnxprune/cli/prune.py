"""`onnxprune prune`: a smaller model, and a report of what went, what did not and why, and how far the outputs moved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxprune.cli.app import app
from onnxprune.cli.options import (
    CALIB,
    CAST,
    DATA,
    HTML,
    JSON,
    MODEL,
    NO_VALIDATE,
    PERMUTE,
    PREPROCESS,
    PROFILE,
    REPAIRS,
    REPORT,
    SAMPLES,
    SEED,
    SPARSE_LAYERS,
    option,
    output,
    repairs,
)  # fmt: skip
from onnxprune.errors import OnnxPruneError

if TYPE_CHECKING:
    from onnxprune import Options
    from onnxprune.cli.reports import Texts

ALLOCATIONS = ("uniform", "global", "sensitivity", "search", "netadapt")
# The options that say what to remove: a plan has already decided all that.
SELECTION = (
    "ratio", "macs", "params", "bytes", "latency", "max_error", "min_agreement", "allocation", "steps", "schedule",
    "criterion", "scope", "round_to", "max_ratio", "include", "exclude", "group_ratio", "reduce", "normalize", "plan_out",
)  # fmt: skip

BESIDE_RECIPE = ("model", "out", "recipe", "plan_out", "report", "html", "dry_run", "json", "verbose")


def _names(incomplete: str, where: str) -> list[str]:
    """Shell completion: the names in a table of `onnxprune.criteria`."""
    from onnxprune import criteria

    names = criteria.names() if where == "criteria" else getattr(criteria, where)
    return [name for name in names if name.startswith(incomplete)]


def _criteria(incomplete: str) -> list[str]:
    return _names(incomplete, "criteria")


def _reduces(incomplete: str) -> list[str]:
    return _names(incomplete, "REDUCES")


def _normalizers(incomplete: str) -> list[str]:
    return _names(incomplete, "NORMALIZERS")


def _allocations(incomplete: str) -> list[str]:
    return [name for name in ALLOCATIONS if name.startswith(incomplete)]


def _scopes(incomplete: str) -> list[str]:
    return [name for name in ("local", "global", "isomorphic") if name.startswith(incomplete)]


def _what(metavar: str, help: str, **more: Any) -> Any:
    return option("What to remove", metavar=metavar, help=help, **more)


@app.command(
    epilog="Examples:\n\nonnxprune prune model.onnx -o smaller.onnx --ratio 0.3 --data test.npz\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --scope global --max-ratio 0.8 --round-to 8 --exclude 'head*'\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --macs 0.5 --calib pictures.npz\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --criterion wanda --calib pictures/ --preprocess imagenet --samples 500\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --macs 0.5 --calib pictures.npz --then-sparsify 2:4 --permute --cast fp16\n\n"
    "onnxprune prune model.onnx --dry-run --plan-out plan.json\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --plan plan.json"
)
def prune(
    ctx: typer.Context,
    model: MODEL,
    out: Annotated[Path | None, output("smaller")] = None,
    ratio: Annotated[
        float,
        _what(
            "R",
            "The fraction of channels to remove, below 1: of each group (local), of all channels ranked together "
            "(global), of the channels of all groups of one shape (isomorphic).",
        ),
    ] = 0.5,
    macs: Annotated[
        float | None, _what("F", "Instead of a ratio: keep at most this fraction of the multiply-accumulates.")
    ] = None,
    params: Annotated[
        float | None, _what("F", "Instead of a ratio: keep at most this fraction of the parameters.")
    ] = None,
    bytes: Annotated[float | None, _what("F", "Instead of a ratio: keep at most this fraction of the file.")] = None,
    latency: Annotated[
        float | None,
        _what("F", "Instead of a ratio: the largest model that takes at most this fraction of the time here."),
    ] = None,
    max_error: Annotated[
        float | None,
        _what("E", "Instead of a ratio: the smallest model whose relative L2 error on --calib is at most E."),
    ] = None,
    min_agreement: Annotated[
        float | None,
        _what(
            "A",
            "Instead of a ratio: the smallest model that prefers the original's class for this fraction of --calib.",
        ),
    ] = None,
    allocation: Annotated[
        str | None,
        _what(
            "|".join(ALLOCATIONS),
            "How groups share what a budget takes: one ratio for all (uniform), all channels ranked together (global); or by "
            "errors measured on --calib: one tolerance for all (sensitivity), the least sum (search, the default with --calib), "
            "in small steps (netadapt).",
            autocompletion=_allocations,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        _what(
            "N",
            "Remove channels in so many steps, and score what is left again after each (1; with --calib and a budget as many "
            "as it takes to leave about 84 % each time).",
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        _what(
            "linear|cubic|agp|geometric",
            "How much is gone after each step: as much each time, slowly at first, fast at first, the same part of what is "
            "left.",
        ),
    ] = None,
    criterion: Annotated[
        str | None,
        _what(
            "NAME",
            "What makes a channel important; see 'onnxprune criteria' (obs with --calib, else l2).",
            autocompletion=_criteria,
        ),
    ] = None,
    scope: Annotated[
        str, _what("local|global|isomorphic", "Which channels compete with each other.", autocompletion=_scopes)
    ] = "local",
    round_to: Annotated[int, _what("N", "Keep channel counts at multiples of N.")] = 1,
    max_ratio: Annotated[float, _what("R", "The most that any one group may lose.")] = 1.0,
    include: Annotated[
        list[str] | None, _what("GLOB", "Only groups with such a group, node or initializer name; repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, _what("GLOB", "No group with such a name; repeatable.")] = None,
    group_ratio: Annotated[list[str] | None, _what("GLOB=R", "Another ratio for such groups; repeatable.")] = None,
    reduce: Annotated[
        str | None,
        _what(
            "NAME",
            "How the scores of a group's weights become one (sum, mean, max, ..); the criterion knows a good one.",
            autocompletion=_reduces,
        ),
    ] = None,
    normalize: Annotated[
        str,
        _what(
            "NAME",
            "How the scores of groups that compete are made comparable (none, mean, lamp, ..).",
            autocompletion=_normalizers,
        ),
    ] = "mean",
    recipe: Annotated[
        Path | None,
        option(
            "Files", "--recipe", metavar="RECIPE.toml", help="Take all settings from a recipe of 'onnxprune batch'."
        ),
    ] = None,
    plan: Annotated[
        Path | None, option("Files", "--plan", metavar="PLAN.json", help="Apply this plan instead of making one.")
    ] = None,
    plan_out: Annotated[
        Path | None,
        option("Files", "--plan-out", metavar="PLAN.json", help="Write the plan: the channels kept, group by group."),
    ] = None,
    report: REPORT = None,
    html: HTML = None,
    calib: CALIB = None,
    samples: SAMPLES = None,
    repair: Annotated[
        str | None,
        option(
            "Calibration",
            "--repair",
            metavar="|".join(REPAIRS),
            help="How the layers that stay take over what the removed channels did (lstsq with --calib, else none): the most "
            "similar channel that stays (merge, which needs no data), means into biases (bias), means and deviations "
            "(affine), least squares of every layer, one after the other (lstsq), or all at once (obs).",
            autocompletion=repairs,
        ),
    ] = None,
    then_sparsify: Annotated[
        str | None,
        option(
            "Sparsity",
            "--then-sparsify",
            metavar="PATTERN",
            help="Make what stays sparse too, as 'onnxprune sparsify --pattern' does; for N:M, channel counts are kept at "
            "multiples of M.",
        ),
    ] = None,
    permute: PERMUTE = False,
    layers: SPARSE_LAYERS = None,
    cast: CAST = None,
    preprocess: PREPROCESS = None,
    cache: Annotated[
        Path | None,
        option(
            "Calibration",
            "--cache",
            metavar="FILE.jsonl",
            help="Keep measured errors here; what is found here is not measured again.",
        ),
    ] = None,
    data: DATA = None,
    no_validate: NO_VALIDATE = False,
    profile: PROFILE = False,
    seed: SEED = 0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what would go; of the files, write only --plan-out and --report."),
    ] = False,
    json: JSON = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every group.")] = False,
) -> None:
    """Remove whole channels (filters, neurons, heads) from a model, with all that depends on them.

    The smaller model runs wherever the original ran. Prints what was removed,
    what was not and why, and how far the outputs moved.
    """
    from onnxprune.cli.paths import check_outputs

    if recipe is not None:
        _refuse(ctx, [n for n in ctx.params if n not in BESIDE_RECIPE], "--recipe says how")
        from onnxprune.batch.jobs import as_options, settings_for
        from onnxprune.batch.recipe import read

        said = as_options(settings_for(read(recipe), model), recipe.parent)
        return prune(
            ctx, model, out, report=report, html=html, plan_out=plan_out, dry_run=dry_run, json=json, verbose=verbose, **said
        )  # fmt: skip
    if out is None and not dry_run:
        raise OnnxPruneError("where should the smaller model go? give -o OUT (or --dry-run to write none)")
    if samples is not None and calib is None:
        raise OnnxPruneError("--samples is for --calib: it says how much of it to use; give both")
    if then_sparsify is None:
        _refuse(ctx, ["permute", "layers"], "what is to be sparse is not said (--then-sparsify PATTERN)")
    if plan is not None:
        _refuse(ctx, SELECTION, "--plan already says what to remove")
    if any(f is not None for f in (macs, params, bytes, latency, max_error, min_agreement)):
        _refuse(ctx, ["ratio"], "a budget says how much goes")
    if allocation is not None:
        _refuse(ctx, ["scope"], "--allocation says which channels compete")
    check_outputs({"-o": out, "--plan-out": plan_out, "--report": report, "--html": html}, [model, plan, calib, data])

    import onnxprune
    from onnxprune.calibration import read_preprocess
    from onnxprune.cli.render import render_pruned
    from onnxprune.cli.reports import carry_out, given, page_of
    from onnxprune.report import json_text

    options = onnxprune.Options(
        ratio=ratio,
        criterion=criterion,
        reduce=reduce,
        scope=scope,
        normalize=normalize,
        round_to=round_to,
        max_ratio=max_ratio,
        include=include or (),
        exclude=exclude or (),
        group_ratio=group_ratios(group_ratio or ()),
        seed=seed,
        macs=macs,
        params=params,
        bytes=bytes,
        latency=latency,
        max_error=max_error,
        min_agreement=min_agreement,
        allocation=allocation,
        steps=steps,
        schedule=schedule,
        repair=repair,
    )
    options.check()
    sparsity = (
        onnxprune.Sparsity(pattern=then_sparsify, permute=permute, layers=layers, seed=seed) if then_sparsify else None
    )
    if sparsity:
        sparsity.resolved(calib is not None)
    how = _how(options.resolved(calib is not None), plan)
    texts: Texts = {report: json_text, html: partial(page_of, given(ctx))}
    carry_out(
        lambda progress: onnxprune.prune(
            model,
            None if dry_run else out,
            options,
            plan=onnxprune.Plan.load(plan) if plan else None,
            plan_out=plan_out,
            calib=calib,
            samples=samples,
            cache=cache,
            data=data,
            preprocess=read_preprocess(preprocess) if preprocess else None,
            check=not no_validate,
            profile=profile,
            sparsity=sparsity,
            cast=cast,
            seed=seed,
            progress=progress,
        ),
        lambda r: render_pruned(r, how, verbose),
        texts,
        json,
    )


def _refuse(ctx: typer.Context, names: Sequence[str], why: str) -> None:
    """Options that would decide again what is decided already are a mistake."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise OnnxPruneError(f"{why}, so --{name.replace('_', '-')} has no place beside it; drop one")


def group_ratios(given: Sequence[str]) -> dict[str, float]:
    """What `--group-ratio` says, GLOB=R each. Raises OnnxPruneError."""
    return dict(map(_glob_ratio, given))


def _glob_ratio(text: str) -> tuple[str, float]:
    glob, _, number = text.rpartition("=")
    try:
        return (glob, float(number)) if glob else (glob, float("no glob"))
    except ValueError:
        raise OnnxPruneError(f"--group-ratio '{text}': expected GLOB=R, as in --group-ratio 'layer4*=0.25'") from None


def _how(o: Options, plan: Path | None) -> str:
    said = [f"criterion {o.criterion}", _goal(o)]
    said += [f"{o.allocation} allocation"] if o.allocation else [f"{o.scope} scope"]
    said += [f"{o.steps} steps, {o.schedule}"] if o.steps != 1 else []
    said += [f"reduce {o.reduce}"] if o.reduce else []
    said += [f"normalize {o.normalize}"] if (o.allocation or o.scope) in ("global", "isomorphic") else []
    said += [f"at most {o.max_ratio:g} of a group"] if o.max_ratio < 1 else []
    said += [f"multiples of {o.round_to}"] if o.round_to > 1 else []
    said = [f"plan {plan}"] if plan else said
    return ", ".join([*said, f"repair {o.repair}"] if o.repair != "none" else said)


def _goal(o: Options) -> str:
    """What decides how much goes."""
    if o.max_error is not None:
        return f"relative L2 error at most {o.max_error:g}"
    if o.min_agreement is not None:
        return f"the same class for at least {o.min_agreement:g}"
    kind, fraction = o.budget or o.limit or ("ratio", o.ratio)
    return f"at most {fraction:g} of the {kind}" if kind != "ratio" else f"ratio {o.ratio:g}"
