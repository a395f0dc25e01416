#!/usr/bin/env python3
"""Accuracy and time by budget: prune one model at several budgets, and print a table.

python tools/examples/sweep.py models/digits_cnn.onnx --calib models/digits_calib.npz --data models/digits_test.npz
"""

import argparse

import onnxprune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True, help="inputs to choose channels and refit layers")
    parser.add_argument("--data", required=True, help="inputs and labels to compare on")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.8, 0.65, 0.5])
    parser.add_argument("--samples", type=int)
    args = parser.parse_args()
    print("macs  accuracy         time")
    for macs in args.macs:
        made = onnxprune.prune(args.model, macs=macs, calib=args.calib, data=args.data, samples=args.samples)
        accuracy, latency = made.report.error.accuracy, made.report.latency
        time = f"{latency.after / latency.before:.2f}" if latency.verdict != "noisy" else "too noisy"
        print(f"{macs:4.2f}  {accuracy.before:.3f} -> {accuracy.after:.3f}  {time}")


if __name__ == "__main__":
    main()
