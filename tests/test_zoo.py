"""Real models: graphs that both PyTorch exporters wrote, and trained networks from many other tools.

They are not part of the project. ONNXPRUNE_ZOO names a folder that holds `topologies/` (packed graphs, and
manifest.json with their input shapes), `materialise.py` (which gives them seeded weights) and `trained/` (files that
its manifest.json lists). A sample is checked by default, every model and every group with `-m slow`.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import laws
import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune.calibration import draw_inputs, list_input_specs

ZOO = Path(os.environ.get("ONNXPRUNE_ZOO", "."))
needs_zoo = pytest.mark.skipif(
    "ONNXPRUNE_ZOO" not in os.environ, reason="ONNXPRUNE_ZOO does not name a folder with topologies/ and trained/"
)
SAMPLE = [
    "c_cond_if.dy", "c_gru.ts", "c_mha_cross.dy", "c_nn_transformer.ts", "c_style_norms.ts", "hf_vit.ts",
    "tv_shufflenet_v2_x1_0.dy", "tv_squeezenet1_1.ts", "tv_vit_b_16_small.dy", "pyg_GCNConv.dy",
    "cifar/akamaster_resnet20_ts_keepbn.onnx", "cifar/mlc_resnet_float.onnx", "mnist/burn_mnist.onnx",
    "mnist/cntk_mnist.onnx", "quant/mlc_resnet_large_int8.onnx", "quant/squeezenet_fp16.onnx", "gan/cgan_32_3.onnx",
    "speech/kws_DS_CNN_S.onnx", "tabular/nn4sys_mscn_128d_dual.onnx", "text/magika_standard_v1.onnx",
    "transformer/vit_pgd_2_3_16.onnx",
]  # fmt: skip
# Its exporter traced one routing: the original itself fails on some inputs, and on the same ones with zeroed weights
# that its pruned form fails on. What changes the hidden states is therefore not run on it.
ROUTED = {"hf_mixtral_moe.ts": ("permutation", "identity", "accounting", "determinism")}
DEEP = 1e-3  # relative rounding that a whole network may add up, float32


@cache
def manifest(folder: str) -> Mapping[str, Any]:
    path = ZOO / folder / "manifest.json"
    if "ONNXPRUNE_ZOO" not in os.environ or not path.exists():
        return {}
    entries: Any = json.loads(path.read_text(encoding="utf-8"))
    return entries if isinstance(entries, dict) else {e["file"]: e for e in entries}


def every_model() -> list[str]:
    return [*manifest("topologies"), *manifest("trained")]


def load(name: str) -> ModelProto:
    if name not in manifest("topologies"):
        return onnx.load(ZOO / "trained" / name)
    spec = importlib.util.spec_from_file_location("materialise", ZOO / "materialise.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: ModelProto = module.materialise(ZOO / "topologies" / f"{name}.onnx.gz")
    return model


def listed_inputs(proto: ModelProto, inputs: Mapping[str, Any], more: int) -> laws.Feeds:
    """Inputs as a manifest describes them, with `more` rows where the first axis is dynamic."""
    rng, out = np.random.default_rng(more), {}
    free = {s.name for s in list_input_specs(proto) if s.shape and not isinstance(s.shape[0], int)}
    for name, s in inputs.items():
        shape = [n + more if not axis and name in free else n for axis, n in enumerate(s["shape"])]
        if "int" in s["dtype"]:
            out[name] = rng.integers(0, s.get("high", 2), shape).astype(s["dtype"])
        elif s["dtype"] == "bool":
            out[name] = np.ones(shape, bool)
        else:
            out[name] = rng.standard_normal(shape).astype(s["dtype"])
    return out


def feeds(name: str, proto: ModelProto) -> list[laws.Feeds]:
    """Inputs at two sizes where the model has dynamic ones; sizes at which the original itself fails are left out."""
    listed = manifest("topologies").get(name)
    candidates = []
    for more in (0, 1):
        if listed:
            candidates.append([listed_inputs(proto, listed["inputs"], more)])
        else:
            specs, lengths = list_input_specs(proto), (16 + more, 600 + more)  # audio models need the longer one
            candidates.append([draw_inputs(specs, seed=more, batch=2 + more, sequence=n)[0] for n in lengths])
    out, why = [], "nothing was tried"
    for tries in candidates:
        for f in tries:
            try:
                laws.run_ort(proto, [f])
            except Exception as e:  # ONNX Runtime has a dozen kinds
                why = str(e)
            else:
                out.append(f)
                break
    if not out:
        pytest.skip(f"ONNX Runtime does not run the original: {why[:200]}")
    return out


def tolerance(checker: laws.Checker) -> float:
    """What rounding alone may do to the outputs; one step of a quantized output is a different value."""
    assert checker.tolerance is not None
    steps = any(y.dtype in (np.int8, np.uint8) for outputs in checker.reference for y in outputs)
    return 0.05 if steps else max(checker.tolerance, DEEP)


@needs_zoo
@pytest.mark.parametrize("name", SAMPLE)
def test_sample(name: str) -> None:
    """Any ratio gives a valid model that runs at both sizes; all groups permuted at once change nothing."""
    if name not in every_model():
        pytest.skip(f"the zoo has no '{name}'")
    proto = load(name)
    checker = laws.Checker(proto, feeds(name, proto), max_groups=0)
    checker.shapes()
    permuted = checker.prune({g.name: checker.shuffled(g) for g in checker.analysis.groups})
    for want, got in zip(checker.reference, checker.run(permuted, checker.feeds), strict=True):
        for x, y in zip(want, got, strict=True):
            assert laws.difference(x, y) <= tolerance(checker)
    checker.max_groups, checker.tolerance = 2, tolerance(checker)
    checker.units()


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", every_model())
def test_every_group_of_every_model(name: str) -> None:
    proto = load(name)
    checker = laws.Checker(proto, feeds(name, proto), forgives_rounding=True)
    checker.tolerance = tolerance(checker)
    for law in ROUTED.get(name, laws.LAWS):
        getattr(checker, law)()


@pytest.mark.skipif("ONNXPRUNE_ZOO" not in os.environ, reason="ONNXPRUNE_ZOO is not set")
def test_the_sample_is_in_the_zoo() -> None:
    assert set(SAMPLE) <= set(every_model())
