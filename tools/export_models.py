#!/usr/bin/env python3
"""Export well-known architectures with seeded random weights, through both of PyTorch's ONNX exporters.

    python tools/export_models.py resnet50 bert_base -o zoo --exporter both
    python tools/export_models.py --list

Writes NAME.ts.onnx (TorchScript, opset 17) and NAME.dy.onnx (dynamo, its default opset), each with a dynamic batch
and, for text, a dynamic sequence length. Nothing is downloaded. Biases and norms, which are all zeros and ones in an
untrained network, get random values: equal tensors are shared by the exporters, which trained ones never are.

The names that start with `dead_` are twice as wide as they need to be: the second half of every layer is zero, and
does nothing. `dead_half` gives such a network together with the narrow one that it must prune to.

Needs torch and onnxscript; torchvision, timm and transformers for the architectures that they define.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TS_OPSET = 17
EXPORTERS = {"ts": ["ts"], "dynamo": ["dy"], "both": ["ts", "dy"]}
TORCHVISION = [
    "resnet50", "resnet18", "vgg16_bn", "mobilenet_v2", "densenet121", "efficientnet_b0", "resnext50_32x4d",
    "convnext_tiny", "vit_b_16", "mobilenet_v3_large", "shufflenet_v2_x1_0", "squeezenet1_1", "googlenet",
]  # fmt: skip
TIMM = ["deit_tiny_patch16_224", "mobilenetv4_conv_small", "repvgg_a0", "mixer_s32_224"]


@dataclass
class Net:
    """A module and how to call it: its example inputs, and the axes of them that are dynamic (axis -> symbol)."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: Sequence[str]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)


# --- architectures that other packages define -----------------------------------------------------------------------


def torchvision_models() -> Any:
    """torchvision.models. On a CPU build of torch its C++ operators are missing; declaring their schemas mends the import."""
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    align = "(Tensor x, Tensor rois, float scale, SymInt h, SymInt w, int ratio, bool aligned) -> Tensor"
    for name, schema in (("nms", boxes), ("qnms", boxes), ("roi_align", align)):
        with suppress(RuntimeError):  # it is there
            torch.library.define(f"torchvision::{name}", schema)
    import torchvision  # type: ignore[import-untyped]

    return torchvision.models


def picture(module: nn.Module, size: int = 224, channels: int = 3) -> Net:
    """A network that takes one picture [N, C, H, W] and gives class scores."""
    image = torch.randn(2, channels, size, size)
    return Net(module, {"image": image}, ["scores"], {"image": {0: "batch"}})


def torchvision_net(name: str) -> Net:
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return picture(getattr(torchvision_models(), name)(weights=None, **options))


def timm_net(name: str) -> Net:
    torchvision_models()
    import timm

    return picture(timm.create_model(name, pretrained=False, exportable=True))


class Bert(nn.Module):
    """BERT-base with one output: the pooled first token, or all hidden states."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        torchvision_models()
        from transformers import BertConfig, BertModel

        self.hidden = hidden
        config = BertConfig()
        config._attn_implementation = "eager"
        self.bert = BertModel(config, add_pooling_layer=not hidden)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        y: Tensor = out.last_hidden_state if self.hidden else out.pooler_output
        return y


def bert(hidden: bool) -> Net:
    ids = torch.randint(0, 1000, (2, 16))
    axes = {0: "batch", 1: "sequence"}
    names = ["last_hidden_state" if hidden else "pooled"]
    return Net(
        Bert(hidden),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        names,
        {"input_ids": axes, "attention_mask": axes},
    )


# --- architectures defined here, each at any width --------------------------------------------------------------------


class Cnn(nn.Module):
    """Plain convolutions with BatchNorm; the last 4x4 map is flattened into the head."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(w, 2 * w, 3, padding=1), nn.BatchNorm2d(2 * w), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.LeakyReLU(0.1)),
        )
        self.fc1 = nn.Linear(2 * w * 16, 4 * w)
        self.fc2 = nn.Linear(4 * w, 10)

    def forward(self, image: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.relu(self.fc1(torch.flatten(self.body(image), 1))))
        return y


class Residual(nn.Module):
    """Inverted residual: expand, depthwise, squeeze-and-excite, project, add."""

    def __init__(self, w: int) -> None:
        super().__init__()
        e = 2 * w
        self.expand, self.bn1 = nn.Conv2d(w, e, 1, bias=False), nn.BatchNorm2d(e)
        self.depth, self.bn2 = nn.Conv2d(e, e, 3, padding=1, groups=e, bias=False), nn.BatchNorm2d(e)
        self.squeeze, self.excite = nn.Conv2d(e, w // 2, 1), nn.Conv2d(w // 2, e, 1)
        self.project, self.bn3 = nn.Conv2d(e, w, 1, bias=False), nn.BatchNorm2d(w)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.bn1(self.expand(x)))
        y = F.hardswish(self.bn2(self.depth(y)))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        y = y * torch.sigmoid(gate)
        out: Tensor = x + self.bn3(self.project(y))
        return out


class ResNet(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, w, 3, 2, 1, bias=False), nn.BatchNorm2d(w)
        self.blocks = nn.Sequential(Residual(w), Residual(w))
        self.head = nn.Linear(w, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.stem(image))))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


class Mlp(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(3 * 16 * 16, w), nn.ReLU(), nn.Linear(w, 2 * w), nn.GELU(), nn.Linear(2 * w, w), nn.Tanh()),
            nn.Linear(w, 10),
        )

    def forward(self, image: Tensor) -> Tensor:
        y: Tensor = self.net(torch.flatten(image, 1))
        return y


class Block(nn.Module):
    """A pre-norm transformer block of fixed width E; heads H and MLP width are what is doubled."""

    def __init__(self, e: int, heads: int, head: int, mlp: int) -> None:
        super().__init__()
        self.heads, self.head = heads, head
        self.norm1, self.norm2 = nn.LayerNorm(e), nn.LayerNorm(e)
        self.q, self.k, self.v = (nn.Linear(e, heads * head) for _ in range(3))
        self.out = nn.Linear(heads * head, e)
        self.fc1, self.fc2 = nn.Linear(e, mlp), nn.Linear(mlp, e)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        u = self.norm1(x)
        q, k, v = (f(u).view(n, t, self.heads, self.head).transpose(1, 2) for f in (self.q, self.k, self.v))
        a = torch.softmax(q @ k.transpose(2, 3) * 0.25, -1) @ v
        x = x + self.out(a.transpose(1, 2).reshape(n, t, self.heads * self.head))
        y: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return y


class Transformer(nn.Module):
    """Two blocks over tokens [N, T, 32] in and out, so that the residual width is the graph's own and stays.

    `w` doubles the heads, the features of a head and the MLP.
    """

    def __init__(self, w: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(32, w, 2 * w, 8 * w) for _ in range(2)))

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.blocks(tokens)
        return y


def tokens_net(module: nn.Module) -> Net:
    axes = {"tokens": {0: "batch", 1: "sequence"}}
    return Net(module, {"tokens": torch.randn(2, 7, 32)}, ["y"], axes)


Views = Mapping[str, Callable[[int], tuple[int, ...]]]  # parameter suffix -> its shape at width w, products split up
DEAD: dict[str, tuple[Callable[[int], nn.Module], Callable[[nn.Module], Net], Views]] = {
    "dead_cnn": (Cnn, lambda m: picture(m, 16), {"fc1.weight": lambda w: (4 * w, 2 * w, 16)}),
    "dead_resnet": (ResNet, lambda m: picture(m, 16), {}),
    "dead_mlp": (Mlp, lambda m: picture(m, 16), {}),
    "dead_transformer": (
        Transformer,
        tokens_net,
        {f"{p}.weight": lambda w: (w, 2 * w, 32) for p in "qkv"}
        | {f"{p}.bias": lambda w: (w, 2 * w) for p in "qkv"}
        | {"out.weight": lambda w: (32, w, 2 * w)},
    ),
}


def dead_half(name: str, width: int = 4) -> tuple[Net, Net]:
    """A network of twice `width` whose second half is dead, and the network of `width` that computes the same.

    Every parameter of the wide one is the narrow one's, padded with zeros along each axis that grew; the running
    variance of a dead BatchNorm channel is 1.
    """
    make, call, views = DEAD[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    narrow, wide = make(width), make(2 * width)
    randomise(narrow)
    live, state = narrow.state_dict(), wide.state_dict()
    for key, target in state.items():
        view = next((v for suffix, v in views.items() if key.endswith(suffix)), None)
        source = live[key]
        into = target.reshape(view(2 * width)) if view else target
        into.fill_(1 if key.endswith("running_var") else 0)
        source = source.reshape(view(width)) if view else source
        into[tuple(slice(n) for n in source.shape)] = source
        state[key] = into.reshape(target.shape)
    wide.load_state_dict(state)
    return call(wide.eval()), call(narrow.eval())


def dead_net(name: str, suffix: str) -> Net:
    wide, narrow = dead_half(name)
    return narrow if suffix else wide


# --- the list, and the two exporters ----------------------------------------------------------------------------------

MODELS: dict[str, Callable[[], Net]] = {
    **{name: partial(torchvision_net, name) for name in TORCHVISION},
    **{f"timm_{name}": partial(timm_net, name) for name in TIMM},
    "bert_base": partial(bert, hidden=False),
    "bert_base_hidden": partial(bert, hidden=True),
    **{f"{name}{suffix}": partial(dead_net, name, suffix) for name in DEAD for suffix in ("", "_narrow")},
}


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Random values for what initialization leaves constant (norms, biases, zeroed heads), and for running statistics."""
    for p in module.parameters():
        if p.dim() == 1 or bool((p == p.flatten()[0]).all()):
            ones = bool((p == 1).all())
            p.copy_(torch.rand_like(p) + 0.5 if ones else torch.randn_like(p) * 0.05)
    for name, b in module.named_buffers():
        if name.endswith("running_mean"):
            b.copy_(torch.randn_like(b) * 0.1)
        elif name.endswith("running_var"):
            b.copy_(torch.rand_like(b) + 0.5)


def build(name: str) -> Net:
    """The network `name` with weights seeded by its name, in evaluation mode. Raises KeyError."""
    torch.manual_seed(zlib.crc32(name.encode()))
    net = MODELS[name]()
    if name.removesuffix("_narrow") not in DEAD:
        randomise(net.module)
    net.module.eval()
    return net


def export(net: Net, path: Path, exporter: str) -> None:
    """Write one ONNX file. `exporter` is "ts" (TorchScript) or "dy" (dynamo)."""
    args = tuple(net.inputs.values())
    names = {"input_names": list(net.inputs), "output_names": list(net.outputs)}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if exporter == "ts":
                torch.onnx.export(
                    net.module,
                    args,
                    str(path),
                    dynamo=False,
                    opset_version=TS_OPSET,
                    dynamic_axes=net.dynamic,
                    **names,  # type: ignore[arg-type]
                )
                return
            symbols = {s: torch.export.Dim(s) for axes in net.dynamic.values() for s in axes.values()}
            shapes = tuple({a: symbols[s] for a, s in net.dynamic.get(n, {}).items()} for n in net.inputs)
            program = torch.onnx.export(
                net.module,
                args,
                dynamo=True,
                dynamic_shapes=shapes,
                verbose=False,
                **names,  # type: ignore[arg-type]
            )
            assert program is not None
            program.save(str(path), external_data=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to export; see --list")
    parser.add_argument("-o", "--out", type=Path, default=Path("exported"), help="folder to write to")
    parser.add_argument("--exporter", choices=EXPORTERS, default="both")
    parser.add_argument("--list", action="store_true", help="print the names and exit")
    args = parser.parse_args(argv)
    if args.list:
        print("\n".join(MODELS))
        return 0
    unknown = [n for n in args.names if n not in MODELS]
    if unknown or not args.names:
        parser.error(f"unknown name '{unknown[0]}'; see --list" if unknown else "name at least one model; see --list")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in args.names:
        for exporter in EXPORTERS[args.exporter]:
            path = args.out / f"{name}.{exporter}.onnx"
            part = path.with_suffix(".part")
            try:
                export(build(name), part, exporter)
                os.replace(part, path)
                print(path, f"{path.stat().st_size / 1e6:.1f} MB", flush=True)
            except Exception as e:  # one architecture that an exporter cannot do must not stop the others
                failed = 1
                print(f"{path}: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}", file=sys.stderr)
            finally:
                part.unlink(missing_ok=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
