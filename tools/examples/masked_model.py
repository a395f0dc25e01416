#!/usr/bin/env python3
"""A masked model becomes a small one: zero half of the filters of each layer, as tools that prune by masks do, then remove them.

python tools/examples/masked_model.py models/digits_cnn.onnx -o small.onnx
"""

import argparse

import onnxprune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--out", required=True)
    args = parser.parse_args()
    masked = onnxprune.sparsify(args.model, pattern="filter", layers="all")
    made = onnxprune.prune(masked.proto, args.out, ratio=0)
    params = made.report.params
    print(f"parameters: {params.before:,} with zeros, {params.after:,} without")
    print(f"relative L2 error between them: {made.report.error.relative_l2:.2g}")


if __name__ == "__main__":
    main()
