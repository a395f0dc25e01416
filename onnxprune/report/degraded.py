"""When a result is ruined rather than smaller, and how often classes must have been compared for the share to mean anything.

A relative L2 error of 1 is as bad as outputs of zero. At the limit here the error has half of the energy of the outputs
(0.7^2 = 0.49). Measured on 400 labelled pictures each, without repair, at ten ratios from 0.03 to 0.7 in two scopes, on five
CIFAR-10 classifiers of others and digits_cnn (120 results): of those beyond 0.7 none agreed with its original on more than 80 % of
the pictures (digits_cnn at 0.708), of the CIFAR-10 networks none on more than 54 %; most agreed on less than 20 %. Of those
under 0.5 none agreed on less than 56 %, between the two it was 34 to 98 %, so that there the error says little.
"""

from __future__ import annotations

from onnxprune.report.types import ErrorReport, OutputMismatch

LIMIT = 0.7  # of the relative L2 error
MISMATCH_LIMIT = 0.5  # the share of elements that differ, where no output is of floats: no more agree than do not
FEW_SAMPLES = 32  # how often classes agree on fewer random samples is chance


def explain_degraded(error: ErrorReport | None) -> str:
    """In words, why a result is degraded; empty where it is not, or nothing was compared."""
    if error is None:
        return ""
    new = error.nonfinite.candidate - error.nonfinite.reference
    if new > 0:
        return f"{new:,} outputs are NaN or infinite, and were not before"
    error_of_floats = error.relative_l2
    if error_of_floats is not None and not error_of_floats <= LIMIT:
        return f"the relative L2 error of {error_of_floats:.3g} is beyond {LIMIT:g} (1 is as bad as outputs of zero)"
    exact = [o.mismatch for o in error.outputs.values() if isinstance(o, OutputMismatch) and o.mismatch is not None]
    if error_of_floats is None and exact and max(exact) > MISMATCH_LIMIT:
        return f"{max(exact):.0%} of the elements of an output differ"
    return ""


def get_agreement(error: ErrorReport) -> float | None:
    """The share of samples with the same class; None where it was measured on so few random samples that it says nothing."""
    return None if error.data.startswith("random") and error.samples < FEW_SAMPLES else error.top1_agreement
