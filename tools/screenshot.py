#!/usr/bin/env python3
"""Make the screenshots of the documentation: prune models/ in a few ways, write the page, and photograph it in chromium.

    python tools/screenshot.py [-o onnxprune/docs/images] [--page FILE.html]

Takes some minutes; --page photographs a page that is there already. Needs chromium, chromedriver and Pillow (extra `test`).
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
NAMES = ("digits_cnn", "digits_resnet", "digits_vit")
SETTINGS: tuple[dict[str, Any], ...] = (
    *({"macs": macs, "calib": "models/digits_calib.npz"} for macs in (0.7, 0.5, 0.35, 0.2)),
    *({"macs": macs} for macs in (0.7, 0.5)),
)
COLOURS = 256  # in the PNG
# Name of the picture, address in the page, width, height, light or dark.
PICTURES = (
    ("report.png", "#/", 1380, 1100, "light"),
    ("report-dark.png", "#/", 1380, 1100, "dark"),
    ("model.png", "#/model/digits_vit", 1380, 1560, "light"),
)


def results(folder: Path) -> Iterator[Any]:
    """Every model in every setting, as jobs."""
    import onnxprune
    from onnxprune.report.rows import Single

    for name in NAMES:
        model = ROOT / "models" / f"{name}.onnx"
        for i, settings in enumerate(SETTINGS):
            print(f"{name}, {settings}", file=sys.stderr)
            given = settings | ({"calib": ROOT / settings["calib"]} if "calib" in settings else {})
            data = ROOT / "models" / "digits_test.npz"
            made = onnxprune.prune(model, folder / f"{name}-{i}.onnx", data=data, **given)
            # These networks take a tenth of a millisecond: their latency says nothing.
            report = replace(made.report, output=f"pruned/{name}-{i}.onnx", latency=None)
            yield Single(f"models/{name}.onnx", name, report, settings)


def photograph(page: Path, out: Path) -> None:
    from browser import Browser
    from PIL import Image

    with Browser() as b:
        for name, address, width, height, scheme in PICTURES:
            b.size(width, height)
            b.prefer(scheme)
            b.open(page, address)
            b.run("return new Promise(done => setTimeout(done, 300))")
            picture = Image.open(io.BytesIO(b.screenshot())).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            picture.save(out / name, optimize=True)
            print(f"{out / name}: {(out / name).stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", type=Path, default=ROOT / "onnxprune" / "docs" / "images", help="the folder of the screenshots"
    )
    parser.add_argument("--page", type=Path, help="a page that is there already")
    args = parser.parse_args()
    args.o.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = args.page
        if page is None:
            from onnxprune.report.html import render_run_page as page_of

            page = Path(folder) / "report.html"
            page.write_text(page_of(list(results(Path(folder))), "models/"), encoding="utf-8")
        photograph(page, args.o)


if __name__ == "__main__":
    main()
