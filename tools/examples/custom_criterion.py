#!/usr/bin/env python3
"""A criterion of your own: keep the channels whose weights have the largest range, and compare with l2.

python tools/examples/custom_criterion.py models/digits_cnn.onnx --data models/digits_test.npz
"""

import argparse

import numpy as np

import onnxprune
from onnxprune.criteria import Rows, criterion


@criterion("range", roles=("out", "in", "scale"))
def score_by_range(rows: Rows) -> np.ndarray:
    """s_c = max_i w_ci - min_i w_ci

    Source: an example
    """
    return np.max([block.max(axis=1) - block.min(axis=1) for block in rows.blocks], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="inputs and labels to compare on")
    parser.add_argument("--ratio", type=float, default=0.3)
    args = parser.parse_args()
    for name in ("range", "l2"):
        made = onnxprune.prune(args.model, ratio=args.ratio, criterion=name, repair="none", data=args.data)
        print(f"{name:6} accuracy {made.report.error.accuracy.after:.3f}")


if __name__ == "__main__":
    main()
