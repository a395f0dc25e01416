#!/usr/bin/env python3
"""Train the example networks in models/ and export them to ONNX.

Three small networks learn scikit-learn's handwritten digits (8x8 pictures, ten classes):

  digits_cnn     plain CNN; BatchNormalization kept as nodes         TorchScript exporter, opset 17
  digits_resnet  inverted residuals, depthwise, squeeze-and-excite   dynamo exporter, default opset
  digits_vit     vision transformer with a class token               TorchScript exporter, opset 17

Each file takes `image` [batch, 1, 8, 8] (float32, pixel / 16) and gives `logits` [batch, 10].
Beside them go digits_test.npz (`image`, `labels`: the 500 pictures that no network saw) and
digits_calib.npz (`image`: 1,000 of the 1,297 training pictures).

The accuracy printed is ONNX Runtime's, on the exported file and the test pictures. The exit status
is 1 when a network misses its accuracy.
Needs torch, onnx, onnxscript, onnxruntime and scikit-learn; one thread, a few minutes in all.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import Tensor, nn

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

MODELS = Path(__file__).resolve().parent.parent / "models"
TEST_PICTURES = 500
CALIB_PICTURES = 1000
SPLIT_SEED = 0
METADATA_KEPT = {"namespace", "pkg.torch.onnx.name_scopes"}


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """The split: pictures [N, 1, 8, 8] in [0, 1], labels [N]."""

    train: Images
    train_labels: Labels
    test: Images
    test_labels: Labels


def digits() -> Digits:
    """Split the 1,797 pictures into 1,297 and 500, always the same; each digit in proportion."""
    pixels, labels = load_digits(return_X_y=True)
    image = (pixels / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    train, test, train_labels, test_labels = train_test_split(
        image,
        labels.astype(np.int64),
        test_size=TEST_PICTURES,
        stratify=labels,
        random_state=SPLIT_SEED,
    )
    return Digits(train, train_labels, test, test_labels)


def shifted(x: Tensor, rng: torch.Generator) -> Tensor:
    """Move each picture of x [N, C, H, W] by -1, 0 or 1 pixels along both axes; zeros move in."""
    n, _, h, w = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    dy = torch.randint(0, 3, (n, 1), generator=rng)
    dx = torch.randint(0, 3, (n, 1), generator=rng)
    rows = (torch.arange(h) + dy)[:, :, None]
    cols = (torch.arange(w) + dx)[:, None, :]
    return padded[torch.arange(n)[:, None, None], :, rows, cols].permute(0, 3, 1, 2)


# --- networks -----------------------------------------------------------------------------------


def conv_bn(i: int, o: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Conv without a bias, then the BatchNorm that holds it."""
    conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(o)]


class Cnn(nn.Module):
    """Four 3x3 convs (32, 64, 64, 128 filters); the 2x2 map left is flattened into the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(1, 32, 3)
        self.conv2, self.bn2 = conv_bn(32, 64, 3)
        self.conv3, self.bn3 = conv_bn(64, 64, 3)
        self.conv4, self.bn4 = conv_bn(64, 128, 3)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(128 * 2 * 2, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        x = F.relu(self.bn3(self.conv3(x)))
        x = self.pool(F.relu(self.bn4(self.conv4(x))))
        logits: Tensor = self.head(torch.flatten(x, 1))
        return logits


class SqueezeExcite(nn.Module):
    """x * hard_sigmoid(expand(relu(reduce(mean(x))))), one gate for each channel."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.expand(gate))


class InvertedResidual(nn.Module):
    """MobileNetV3's block: widen 1x1, depthwise 3x3, squeeze-and-excite, project 1x1, add x.

    Source:  https://arxiv.org/abs/1905.02244, figure 4
    """

    def __init__(self, i: int, hidden: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.widen = nn.Sequential(*conv_bn(i, hidden, 1), nn.Hardswish())
        self.depthwise = nn.Sequential(*conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.Hardswish())
        self.se = SqueezeExcite(hidden, hidden // 8)
        self.project = nn.Sequential(*conv_bn(hidden, o, 1))
        self.residual = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.se(self.depthwise(self.widen(x))))
        return x + y if self.residual else y


class Resnet(nn.Module):
    """Two stages of inverted residuals (24 and 40 channels), the second at 4x4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(1, 24, 3), nn.Hardswish())
        self.blocks = nn.Sequential(
            InvertedResidual(24, 96, 24),
            InvertedResidual(24, 96, 24),
            InvertedResidual(24, 96, 40, stride=2),
            InvertedResidual(40, 160, 40),
            InvertedResidual(40, 160, 40),
        )
        self.last = nn.Sequential(*conv_bn(40, 128, 1), nn.Hardswish())
        self.head = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(image)))
        logits: Tensor = self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class Attention(nn.Module):
    """Multi-head self-attention with one joint projection to query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, self.head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(self.head_width)).softmax(-1)
        y: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, width))
        return y


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Vit(nn.Module):
    """Sixteen 2x2 patches and a class token; width 64, 4 heads, 3 blocks."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, 2, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


# --- training -----------------------------------------------------------------------------------


def batches(n: int, size: int, rng: torch.Generator) -> Tensor:
    """A fresh order of n pictures in full batches [n // size, size]; the rest sits this one out."""
    return torch.randperm(n, generator=rng)[: n // size * size].view(-1, size)


def train(net: nn.Module, data: Digits, epochs: int, lr: float, seed: int, size: int = 64) -> None:
    """AdamW, one-cycle learning rate, label smoothing 0.1, shifted pictures; ends in eval mode."""
    x, y = torch.from_numpy(data.train), torch.from_numpy(data.train_labels)
    rng = torch.Generator().manual_seed(seed)
    adam = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, lr, total_steps=epochs * (len(x) // size))
    net.train()
    for _ in range(epochs):
        for picked in batches(len(x), size, rng):
            loss = F.cross_entropy(net(shifted(x[picked], rng)), y[picked], label_smoothing=0.1)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            schedule.step()
    net.eval()


# --- export -------------------------------------------------------------------------------------


def export_torchscript(net: nn.Module, *, fold: bool) -> onnx.ModelProto:
    """Export through TorchScript, opset 17. `fold=False` also keeps BatchNormalization as nodes."""
    mode = torch.onnx.TrainingMode
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 8, 8),),
            str(file),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            do_constant_folding=fold,
            # EVAL folds BatchNorm into Conv whatever do_constant_folding says; PRESERVE does not.
            training=mode.EVAL if fold else mode.PRESERVE,
        )
        return onnx.load(file)


def export_dynamo(net: nn.Module) -> onnx.ModelProto:
    """Export through torch.export, at the exporter's default opset."""
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def strip_traces(model: onnx.ModelProto) -> None:
    """Keep only the module's name of the exporters' notes: their stack traces name local files."""
    g = model.graph
    for item in [model, g, *g.node, *g.value_info, *g.input, *g.output, *g.initializer]:
        item.ClearField("doc_string")
        kept = [p for p in item.metadata_props if p.key in METADATA_KEPT]
        del item.metadata_props[:]
        item.metadata_props.extend(kept)


def name_nodes(model: onnx.ModelProto) -> None:
    """Name each node that the dynamo exporter's rewriter left as `n0`, `n0_2` after its output."""
    for node in model.graph.node:
        if re.fullmatch(r"(n\d+(_\d+)?)?", node.name):
            node.name = f"node_{node.output[0]}"


def name_weights(model: onnx.ModelProto, net: nn.Module) -> None:
    """Name initializers as the state dict does.

    TorchScript's constant folding calls a transposed weight `onnx::MatMul_317`; the dynamo
    exporter calls the bias that BatchNorm leaves in a Conv `stem.0.weight_bias`.
    """
    state = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    for init in model.graph.initializer:
        if init.name.startswith("onnx::"):
            folded = onnx.numpy_helper.to_array(init)
            (name,) = (n for n, v in state.items() if np.array_equal(v.T, folded))
            rename(model, init, name)
        elif init.name.endswith(".weight_bias"):
            rename(model, init, init.name.replace(".weight_bias", ".bias"))


def rename(model: onnx.ModelProto, init: onnx.TensorProto, name: str) -> None:
    old = init.name
    for node in model.graph.node:
        node.input[:] = [name if x == old else x for x in node.input]
    for item in [init, *model.graph.value_info]:
        if item.name == old:
            item.name = name


def check(model: onnx.ModelProto) -> None:
    """Refuse an inconsistent model, doubled node names, and a local path in the file."""
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    if len(set(names)) != len(names) or "" in names:
        raise ValueError(f"{model.graph.name}: node names are not unique: {sorted(names)}")
    blob = model.SerializeToString()
    if found := re.search(rb"[\w./\\-]+\.py\b|site-packages", blob):
        raise ValueError(f"{model.graph.name}: a path is left in the file: {found.group()!r}")


def accuracy(model: onnx.ModelProto, image: Images, labels: Labels) -> float:
    """Fraction that ONNX Runtime labels rightly, in one batch; batches of 1 and 5 must agree."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image})
    for n in (1, 5):
        (few,) = session.run(["logits"], {"image": image[:n]})
        np.testing.assert_allclose(few, logits[:n], rtol=1e-4, atol=1e-4)
    return float((logits.argmax(1) == labels).mean())


# --- the three networks -------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How one network is made, and the test accuracy (a fraction) that it must reach."""

    net: Callable[[], nn.Module]
    export: Callable[[nn.Module], onnx.ModelProto]
    epochs: int
    lr: float
    must_reach: float


RECIPES = {
    "digits_cnn": Recipe(Cnn, partial(export_torchscript, fold=False), 40, 3e-3, 0.97),
    "digits_resnet": Recipe(Resnet, export_dynamo, 60, 4e-3, 0.97),
    "digits_vit": Recipe(Vit, partial(export_torchscript, fold=True), 100, 2e-3, 0.95),
}


def make(recipe: Recipe, data: Digits, seed: int) -> onnx.ModelProto:
    torch.manual_seed(seed)
    net = recipe.net()
    train(net, data, recipe.epochs, recipe.lr, seed)
    model = recipe.export(net)
    strip_traces(model)
    name_nodes(model)
    name_weights(model, net)
    check(model)
    return model


def write_data(data: Digits, out: Path) -> None:
    np.savez_compressed(out / "digits_test.npz", image=data.test, labels=data.test_labels)
    np.savez_compressed(out / "digits_calib.npz", image=data.train[:CALIB_PICTURES])


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to make (default: all)")
    parser.add_argument("--out", type=Path, default=MODELS, help="where to (default: models/)")
    parser.add_argument("--seed", type=int, default=0, help="weights and batches (default: 0)")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.names) - set(RECIPES)):
        parser.error(f"no network named {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # The exporters warn of their own deprecations; nothing here can act on them.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    data = digits()
    args.out.mkdir(parents=True, exist_ok=True)
    write_data(data, args.out)
    missed = False
    for name in args.names or RECIPES:
        recipe, start = RECIPES[name], time.perf_counter()
        model = make(recipe, data, args.seed)
        file = args.out / f"{name}.onnx"
        onnx.save(model, file)
        print(f"{name}: made in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        reached = accuracy(model, data.test, data.test_labels)
        print(f"{file.name}: accuracy {reached:.3f}, size_bytes {file.stat().st_size}")
        if reached < recipe.must_reach:
            print(f"{name}: accuracy {reached:.3f} < {recipe.must_reach}", file=sys.stderr)
            missed = True
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
