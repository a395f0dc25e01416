"""Explanations of data that do not fit: common mistakes, and the remedy for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.calibration.inputs import Dim, InputSpec

CHANNELS_LAST, CHANNELS_FIRST = (0, 3, 1, 2), (0, 2, 3, 1)  # the transposition that mends each
RGB, GRAY = 3, 1


def explain_shape(spec: InputSpec, shape: Sequence[int]) -> str:
    """Suggest a remedy for an array of another shape; empty if no common mistake explains it."""
    if shape and 0 in shape:
        return "it has no samples" if shape[0] == 0 else "it is empty"
    if len(shape) != len(spec.shape) or len(shape) != 4:
        return ""
    for order, layout in ((CHANNELS_LAST, "NHWC"), (CHANNELS_FIRST, "NCHW")):
        if _fit([shape[a] for a in order], spec.shape):
            return f"it looks like {layout}: transpose{order}"
    return _explain_channels(spec, shape)


def _explain_channels(spec: InputSpec, shape: Sequence[int]) -> str:
    """Color images for a network of gray ones, and the reverse."""
    for axis in (1, 3):
        for given, wanted, advice in (
            (RGB, GRAY, f"convert it to gray, as with .mean({axis}, keepdims=True)"),
            (GRAY, RGB, f"repeat the channel, as with .repeat(3, axis={axis})"),
        ):
            right = [wanted if a == axis else n for a, n in enumerate(shape)]
            if shape[axis] == given and spec.shape[axis] == wanted and _fit(right, spec.shape):
                return f"it has {given} {'channel' if given == 1 else 'channels'} for {wanted}: {advice}"
    return ""


def _fit(shape: Sequence[int], dims: Sequence[Dim]) -> bool:
    """Could an array of this shape be fed? A batch of another size is no matter here."""
    return all(n == d for n, d in zip(shape[1:], dims[1:], strict=True) if isinstance(d, int))


def explain_names(missing: Sequence[str], unknown: Sequence[str]) -> str:
    """Which arrays are missing, and which are too many."""
    lacks = f"there is no array for {_list(missing)}" if missing else ""
    extra = (
        f"{_list(unknown)} {'is no input' if len(unknown) == 1 else 'are no inputs'} of the model" if unknown else ""
    )
    return ", and ".join(filter(None, (lacks, extra)))


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def find_labels(unknown: Mapping[str, tuple[int, ...]], samples: int | None) -> str | None:
    """The array under another name that could be the labels: the only one that is left, with one number per sample."""
    alone = next(iter(unknown.items())) if len(unknown) == 1 else None
    return alone[0] if alone and samples is not None and alone[1] in ((samples,), (samples, 1)) else None
