"""The page in a real browser: Debian's chromium, headless.

Skipped where there is none, unless ONNXPRUNE_BROWSER says that there must be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, DRIVER, Browser
from runs import HOSTILE, Job, jobs

from onnxprune.report import PruneReport, from_json, to_json
from onnxprune.report.html import render_run_page
from onnxprune.report.rows import make_rows
from onnxprune.report.types import QuantizationReport

TABLE = to_json(make_rows(jobs()))
MEASURED = [r for r in TABLE if r["relative_l2"] is not None]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not (CHROMIUM and DRIVER):
        missing = "there is no chromium with a chromedriver (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("ONNXPRUNE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    with Browser() as b:
        yield b


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "zoo.html"
    path.write_text(render_run_page(jobs(), "zoo"), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Browser, zoo: Path) -> Iterator[Browser]:
    """The page, at its first view; whatever a test does there, the browser has nothing to complain of."""
    browser.size(1440, 900)
    browser.prefer("light")
    browser.open(zoo)
    yield browser
    assert browser.complaints() == []


def column(b: Browser, title: str) -> list[str]:
    return b.texts(f'.results td[data-label="{title}"]')


def at(b: Browser, address: str) -> None:
    b.run("location.hash = arguments[0]; return new Promise(done => setTimeout(done, 50))", address)


def follow(b: Browser, css: str) -> None:
    """Click a link; the view changes a moment after its address."""
    b.click(css)
    settle(b)


def settle(b: Browser) -> None:
    """Plots are drawn when their width is known, searches a little after the last key."""
    b.run("return new Promise(done => setTimeout(() => requestAnimationFrame(() => setTimeout(done, 0)), 250))")


# the first view


def test_it_opens_and_loads_nothing(opened: Browser) -> None:
    assert opened.texts("h1") == ["6 models, 11 results"]
    assert opened.texts("#main > .sub") == ["4 done, 4 degraded, 1 failed, 1 timeout, 1 pending"]
    assert len(column(opened, "model")) == 11
    assert opened.run("return performance.getEntriesByType('resource').length") == 0


def test_the_table_has_the_numbers(opened: Browser) -> None:
    opened.type("#filter", "digits_cnn ratio=0.3")
    assert column(opened, "model") == ["digits_cnn"]
    row = TABLE[1]
    assert column(opened, "MACs left")[0].startswith(f"{100 * row['macs_left']:.1f} %")
    assert column(opened, "accuracy")[0].endswith(f"→ {100 * row['accuracy_after']:.1f} %")
    assert column(opened, "2:4") == ["1 / 2"]


@pytest.mark.parametrize(("key", "down"), [("relative_l2", False), ("accuracy_after", True)])
def test_it_sorts(opened: Browser, key: str, down: bool) -> None:
    for descending in (down, not down):
        opened.click(f"[data-sort={key}]")
        ordered = sorted((r[key] for r in MEASURED), reverse=descending)
        assert [r[key] for r in seen(opened)] == ordered + [None] * (len(TABLE) - len(MEASURED))  # the unknown last
        pressed = opened.run(
            "return [document.activeElement.dataset.sort, document.activeElement.closest('th').ariaSort]"
        )
        assert pressed == [key, "descending" if descending else "ascending"]


def seen(b: Browser) -> list[dict[str, Any]]:
    """The rows that the table shows, in its order."""
    known = {(r["model"], r["setting"]): r for r in TABLE}
    return [known[name] for name in zip(column(b, "model"), column(b, "setting"), strict=True)]


def test_it_filters(opened: Browser) -> None:
    opened.type("#filter", "ends too early")
    assert column(opened, "model") == ["cut"]
    opened.type("#filter", "vit ratio")
    assert column(opened, "model") == ["digits_vit"] * 2
    opened.type("#filter", "no such thing")
    assert column(opened, "model") == [] and opened.texts(".tally") == ["0 results"]
    opened.type("#filter", " ")
    opened.choose('[aria-label="status"]', "timeout")
    assert column(opened, "model") == ["slow"]


def test_only_the_best_of_each_model(opened: Browser) -> None:
    opened.type("#share", "60")
    assert opened.run("return document.querySelector('#best').checked")
    assert {r["id"] for r in seen(opened)} == {best("digits_cnn", 0.6)["id"]}, "what is small of the others is degraded"


def best(model: str, share: float) -> dict[str, Any]:
    fit = [r for r in MEASURED if r["model"] == model and r["macs_left"] <= share + 0.0005 and r["status"] == "done"]
    return max(fit, key=lambda r: (r["accuracy_after"], -r["relative_l2"], r["top1_agreement"], -r["macs_left"]))


def test_every_result_is_a_point_and_the_front_is_marked(opened: Browser) -> None:
    settle(opened)
    said = opened.run("return [...document.querySelectorAll('.plot a title')].map(t => t.textContent)")
    assert len(said) == len(MEASURED) and all("relative L2 error" in s and "MACs left" in s for s in said)
    on = opened.run("return [...document.querySelectorAll('.plot .point.on title')].map(t => t.textContent)")
    assert {s.split("\n")[0] for s in on} == {f"{r['model']}, {r['setting']}" for r in MEASURED if not dominated(r)}
    opened.choose('[aria-label="show"]', "accuracy_after")
    settle(opened)
    assert opened.texts(".head h2")[0] == "Accuracy against MACs left"


def dominated(r: dict[str, Any]) -> bool:
    mine = [o for o in MEASURED if o["model"] == r["model"] and o is not r and o["status"] == "done"]
    return r["status"] != "done" or any(
        o["macs_left"] <= r["macs_left"] and o["relative_l2"] <= r["relative_l2"] for o in mine
    )


# a model


def report(i: int) -> dict[str, Any]:
    found = jobs()[i].report
    assert found
    data: dict[str, Any] = to_json(found)
    return data


def test_the_view_of_a_model_opens_by_its_address(opened: Browser) -> None:
    at(opened, "#/model/digits_cnn/3")
    settle(opened)
    assert opened.texts("h1") == ["digits_cnn"] and opened.texts("#tabs [aria-current]") == ["macs=0.5, calib"]
    groups = report(3)["groups"]
    assert opened.texts("#kept li code") == [g["name"] for g in groups]
    widths = opened.run(
        "return [...document.querySelectorAll('#kept .bar')].map(b => b.firstChild.offsetWidth / b.offsetWidth)"
    )
    assert widths == pytest.approx([g["kept"] / g["size"] for g in groups], abs=0.01)
    assert len(opened.run("return [...document.querySelectorAll('#curves .curve')]")) == len(report(3)["sensitivity"])


def test_where_the_error_enters_is_marked(opened: Browser) -> None:
    at(opened, "#/model/digits_cnn/3")
    settle(opened)
    layers = report(3)["reconstruction"]["layers"]
    columns = opened.run("return [...document.querySelectorAll('#error .column')].map(c => +c.getAttribute('height'))")
    errors = [x["relative_l2"] for x in layers]
    assert columns.index(max(columns)) == errors.index(max(errors)) and len(columns) == len(errors)
    (marked,) = opened.run("return [...document.querySelectorAll('#error .column.rise title')].map(t => t.textContent)")
    rise = next(i for i, e in enumerate(errors) if e - max([0.0, *errors[:i]]) >= 0.25 * max(errors))
    assert marked.startswith(f"{rise + 1}. {layers[rise]['name']} ")


def test_a_budget_names_the_best_setting(opened: Browser) -> None:
    at(opened, "#/model/digits_cnn")
    for share in (100, 82, 50):
        opened.type('.best input[type="number"]', str(share))
        assert opened.texts(".said .pick") == [best("digits_cnn", share / 100)["setting"]]
    opened.type('.best input[type="number"]', "45")
    assert opened.texts(".said .pick") == []
    assert opened.texts(".said")[0].startswith("Nothing that small can be recommended: 1 setting is degraded")
    opened.type('.best input[type="number"]', "1")
    assert opened.texts(".said")[0].startswith("No setting is that small; the smallest, macs=0.5")
    assert opened.run("return document.querySelector('#target').value") == "1"


SMALL, LARGE, OVER = {"macs": 0.3}, {"macs": 0.49}, {"macs": 0.51}


@pytest.mark.parametrize(
    ("small", "large", "over", "said"),
    [
        ({"error": 0.3, "agree": 0.9, "right": 0.8}, {"error": 0.1, "agree": 0.95, "right": 0.7}, {}, "macs=0.3"),
        (
            {"error": 0.3, "agree": 0.9},
            {"error": 0.1, "agree": 0.8, "right": 0.9},
            {},
            "macs=0.3",
        ),  # not all have accuracy
        ({"error": 0.3}, {"error": 0.1, "agree": 0.8}, {}, "macs=0.49"),
        ({"error": 0.3, "agree": 0.9}, {"error": 0.1, "agree": 0.8}, {}, "macs=0.3"),
        ({"error": 0.3, "agree": 0.5, "samples": 2}, {"error": 0.1, "agree": 0.0, "samples": 2}, {}, "macs=0.49"),
        ({"error": 0.1, "agree": 0.8}, {"error": 0.1, "agree": 0.8}, {}, "macs=0.3"),  # as good, and smaller
        ({"error": 0.3}, {}, {"error": 0.1}, "macs=0.3"),
        ({}, {}, {"error": 0.1}, ""),
    ],
)
def test_what_makes_a_setting_the_best(
    browser: Browser,
    tmp_path: Path,
    small: dict[str, float],
    large: dict[str, float],
    over: dict[str, float],
    said: str,
) -> None:
    ways = zip((SMALL, LARGE, OVER), (small, large, over), strict=True)
    made = [Job(str(i), "m", s, report=measured(s["macs"], **numbers)) for i, (s, numbers) in enumerate(ways)]
    path = tmp_path / "best.html"
    path.write_text(render_run_page(made, "best"), encoding="utf-8")
    browser.open(path, "#/model/m")
    assert "".join(browser.texts(".said .pick")) == said
    (words,) = browser.texts(".said")
    assert ("A little over, and better: macs=0.51, 51.0 %" in words) == bool(over and said)
    assert said or words.startswith("Nothing that small was compared")
    assert browser.complaints() == []


def measured(
    macs: float,
    error: float | None = None,
    agree: float | None = None,
    right: float | None = None,
    samples: int = 500,
) -> PruneReport:
    """A real report, but for the numbers that results are told apart by; without an error, it was not compared."""
    accuracy = None if right is None else {"before": 1.0, "after": right}
    numbers = {"relative_l2": error, "top1_agreement": agree, "accuracy": accuracy, "samples": samples}
    compared = None if error is None else {**report(0)["error"], **numbers}
    return changed(0, macs={"before": 1000, "after": round(1000 * macs)}, error=compared)


def changed(i: int, **parts: Any) -> PruneReport:
    """A real report with other parts."""
    return from_json(PruneReport, report(i) | parts)


def test_where_macs_are_unknown_parameters_count(browser: Browser, tmp_path: Path) -> None:
    unknown = {"macs": {"before": None, "after": None}, "params": {"before": 100, "after": 40}}
    path = tmp_path / "unknown.html"
    made = [Job(str(i), "m", {"ratio": r}, report=changed(0, **unknown)) for i, r in enumerate((0.1, 0.3))]
    path.write_text(render_run_page(made, "unknown"), encoding="utf-8")
    browser.open(path, "#/model/m")
    assert (
        browser.texts(".best")[0].startswith("Best setting at ") and "% of the parameters" in browser.texts(".best")[0]
    )
    assert browser.texts(".said .pick") == ["ratio=0.1"] and "parameters 40.0 %" in browser.texts(".said")[0]


def test_random_inputs_are_said_to_be_random(browser: Browser, tmp_path: Path) -> None:
    drawn = changed(0, error=report(0)["error"] | {"data": "random seed 0"})
    path = tmp_path / "random.html"
    path.write_text(
        render_run_page([Job("0", "m", {"ratio": 0.1}, report=drawn), Job("1", "m", report=changed(0))], "random")
    )
    browser.open(path, "#/model/m")
    said = []
    for row in (1, 2):
        follow(browser, f".results tbody tr:nth-child({row}) a")
        said.append(dict(zip(browser.texts("#facts dt"), browser.texts("#facts dd"), strict=True))["compared on"])
    assert said == ["500 samples, random inputs, seed 0", "500 samples, digits_test.npz"]
    browser.type('.best input[type="number"]', "100")
    assert "Compared on random inputs" in browser.texts(".said")[0]


def test_frozen_axes_have_their_reasons(opened: Browser) -> None:
    at(opened, "#/model/digits_cnn/0")
    frozen = report(0)["frozen"]
    reasons = {f["reason"] for f in frozen if not f["structural"]}
    told = " ".join(opened.texts("#frozen summary"))
    assert all(r in told for r in reasons) and "kernel position" not in told
    opened.click("#structural")
    assert "kernel position" in " ".join(opened.texts("#frozen summary"))
    opened.type("#frozen-filter", "head.weight")
    assert opened.texts("#frozen .answer dd")[0].startswith("frozen: graph output 'logits'")


def test_sparsity_is_there_where_it_was_looked_at(opened: Browser) -> None:
    at(opened, "#/model/digits_cnn/1")
    assert opened.texts("#sparsity h2") == ["2:4 sparsity"]
    assert opened.texts("#sparsity tbody tr:last-child td")[2:6] == ["yes", "yes", "yes", "82.0 %"]
    assert "1 input channel is no multiple of 4" in opened.texts("#sparsity td")
    at(opened, "#/model/digits_cnn/0")
    assert opened.texts("#sparsity") == []


def test_int8_stands_beside_what_it_was_made_of(browser: Browser, tmp_path: Path) -> None:
    whole = jobs()[0].report
    assert whole and whole.error and whole.latency
    faster, noisy = (replace(whole.latency, verdict=v) for v in ("faster", "noisy"))
    of = QuantizationReport("int8", False, 7, 5, 0, 4321, replace(whole.error, relative_l2=0.125), noisy)
    path = tmp_path / "int8.html"
    path.write_text(
        render_run_page([Job("1", "m", report=replace(whole, quantization=of, latency=faster))], "m"), encoding="utf-8"
    )
    browser.open(path)
    assert browser.texts("#stages thead th") == ["", "original", "pruned", "pruned + int8"]
    rows_of = dict(zip(browser.texts("#stages tbody th"), browser.texts("#stages td:nth-of-type(2)"), strict=True))
    assert rows_of["file"] == "4.32 kB" and rows_of["relative L2"] == "0.125" and rows_of["speed-up"] == "too noisy"
    assert browser.complaints() == []


def test_a_failure_says_what_happened(opened: Browser) -> None:
    at(opened, "#/model/cut")
    assert opened.texts("section .message")[-1] == "cut.onnx: the file ends too early; export it again"
    at(opened, "#/model/nobody")
    assert opened.texts("h1") == ["No such model"]
    at(opened, "#/model/%E0%A4%A")
    assert opened.texts("h1") == ["6 models, 11 results"]


# why


def test_why_a_frozen_axis_stayed(opened: Browser) -> None:
    opened.type("#why", "pos_embed")
    settle(opened)
    (f,) = (f for f in report(4)["frozen"] if f["tensor"] == "pos_embed" and not f["structural"])
    assert opened.texts(".answer h3")[0].startswith("pos_embed in digits_vit")
    said = opened.texts(".answer dd")[f["axis"]]
    assert f["reason"] in said and all(s["name"] in said for s in f["route"])


def test_why_a_group_stayed(opened: Browser) -> None:
    opened.type("#why", "resnet stem.0.weight")
    settle(opened)
    assert opened.texts(".answer h3")[0].startswith("stem.0.weight in digits_resnet")
    assert "left whole by every setting" in opened.texts(".verdict")[0]
    (group,) = (g for g in report(6)["groups"] if g["name"] == "stem.0")
    said = opened.texts(".answer dd")[0]
    assert f"ratio=0.3: {group['size']} of {group['size']} kept – {group['reason']}" in said
    follow(opened, ".answer li a")
    assert opened.texts("h1") == ["digits_resnet"] and opened.run("return document.querySelector('#why').value") == ""


def test_a_name_that_is_nowhere(opened: Browser) -> None:
    opened.type("#why", "conv99")
    settle(opened)
    assert opened.texts("#main p")[-1].startswith("No weight, layer or group has “conv99” in its name.")


def test_the_name_of_a_model_leads_to_it(opened: Browser) -> None:
    opened.type("#why", "vit")
    settle(opened)
    assert opened.texts("#main p a")[1:] == ["digits_vit"]
    follow(opened, '#main p a[href="#/model/digits_vit"]')
    assert opened.texts("h1") == ["digits_vit"]


# for everybody


def test_light_and_dark(opened: Browser, zoo: Path) -> None:
    shade = "return getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    light, pictures = opened.run(shade), [opened.screenshot()]
    opened.prefer("dark")
    dark = opened.run(shade)
    pictures.append(opened.screenshot())
    assert min(light) > 200 and max(dark) < 60 and pictures[0] != pictures[1]
    opened.click("#theme")
    assert opened.run(shade) == light and opened.texts("#theme") == ["☀ light"]
    opened.open(zoo)
    assert opened.run(shade) == light  # it is remembered
    opened.click("#theme")
    opened.prefer("light")
    assert opened.run(shade) == dark
    opened.click("#theme")
    assert opened.texts("#theme") == ["◐ auto"]


@pytest.mark.parametrize("address", ["#/", "#/model/digits_cnn/1", "#/model/digits_vit/0", "#/why/weight"])
def test_it_fits_a_telephone_and_a_desk(opened: Browser, address: str) -> None:
    for width in (360, 761, 1061, 1440, 1920):
        opened.size(width, 740)
        at(opened, address)
        settle(opened)
        assert opened.run("return document.documentElement.scrollWidth") == width


def test_on_a_telephone_the_table_is_sorted_by_a_list(opened: Browser) -> None:
    opened.size(360, 740)
    opened.choose(".narrow select", "relative_l2 true")
    assert seen(opened)[0] == min(MEASURED, key=lambda r: r["relative_l2"])


def test_the_keyboard_is_enough(opened: Browser) -> None:
    opened.press("tab")
    assert opened.run("return document.activeElement.innerText") == "Skip to the results"
    opened.press("/")
    assert opened.run("return document.activeElement.id") == "why"
    opened.run("document.querySelector('[data-sort=macs_left]').focus()")
    opened.press("enter")
    assert opened.run("return document.activeElement.closest('th').ariaSort") == "ascending"
    opened.run("document.querySelector('.results td a').focus()")
    opened.press("enter")
    assert opened.run("return location.hash").startswith("#/model/")


def test_every_control_has_a_name(opened: Browser) -> None:
    unnamed = (
        "return [...document.querySelectorAll('input, select, button')]"
        ".filter(e => !e.ariaLabel && !e.innerText && ![...(e.labels || [])].some(l => l.innerText.trim())).map(e => e.outerHTML)"
    )
    for address in ("#/", "#/model/digits_cnn/3"):
        at(opened, address)
        assert opened.run(unnamed) == []


def test_it_prints(opened: Browser) -> None:
    opened.prefer("dark")
    opened.media("print")
    shown = "return [...arguments[0].split(' ')].map(q => getComputedStyle(document.querySelector(q)).display)"
    assert opened.run(shown, "#ask .filters .results") == ["none", "none", "table"]
    opened.media("")


def test_names_are_never_markup(opened: Browser) -> None:
    assert HOSTILE in column(opened, "model")
    assert opened.run("return document.images.length") == 0
    at(opened, "#/model/" + HOSTILE.replace("/", "%2F").replace("<", "%3C").replace(">", "%3E").replace(" ", "%20"))
    assert opened.texts("h1") == [HOSTILE]


def test_pages_of_one_and_of_none(browser: Browser, tmp_path: Path) -> None:
    one = tmp_path / "one.html"
    one.write_text(render_run_page(jobs()[3:4], "digits_cnn"), encoding="utf-8")
    browser.open(one)
    settle(browser)
    assert browser.texts("h1") == ["digits_cnn"] and browser.texts(".cards dt")[0] == "MACs left"
    one.write_text(render_run_page([], "nothing"), encoding="utf-8")
    browser.open(one)
    assert browser.texts("h1") == ["0 models, 0 results"] and browser.complaints() == []


def test_a_long_table_comes_in_pages(browser: Browser, tmp_path: Path) -> None:
    many = tmp_path / "many.html"
    report = jobs()[0].report
    made = [Job(f"j{i}", f"m{i // 3:03}", {"ratio": i % 3 / 10}, report=report) for i in range(250)]
    many.write_text(render_run_page(made, "many"), encoding="utf-8")
    browser.open(many)
    assert len(column(browser, "model")) == 100 and browser.texts(".pager span") == ["1–100 of 250"]
    browser.click(".pager button:last-child")
    assert browser.texts(".pager span") == ["101–200 of 250"] and column(browser, "model")[0] == "m033"
    browser.click(".pager button:last-child")
    assert len(column(browser, "model")) == 50 and browser.complaints() == []
