// What was kept, where the error enters, and how sensitive groups are.

const FEW = 60; // rows of a long list that are there at once

/** A list that shows its first rows, and the others when asked. */
function longList(items, as, what, few = FEW) {
  const list = h("ul", { class: "list" }, items.slice(0, few).map(as));
  if (items.length <= few) return [list];
  const all = () => {
    list.append(...items.slice(few).map(as));
    more.remove();
  };
  const more = h("button", { type: "button", class: "more", click: all }, `Show ${plural(items.length - few, `more ${what}`, `more ${what}s`)}`);
  return [list, more];
}

function bar(share, css = "") {
  return h("span", { class: `bar ${css}`, "aria-hidden": "true" }, h("i", { style: `width:${(100 * share).toFixed(2)}%` }));
}

/** Per group: how many of its channels were kept. */
function keptBars(groups) {
  const row = (g) => h("li", { class: g.kept === g.size ? "whole" : "" },
    h("code", {}, g.name), h("span", { class: "kind" }, g.exact ? g.kind : `${g.kind}, approximate`), bar(g.kept / g.size),
    h("span", { class: "number" }, `${g.kept} / ${g.size}`), h("span", { class: "why" }, g.why));
  return longList(groups, row, "group");
}

/** Errors of the layers in their order, as columns; where the error enters is marked. */
function layerColumns(layers, rise) {
  const height = 230;
  const most = Math.max(...layers.map((x) => x.error || 0)) || 1;
  const draw = (width) => {
    const ys = scale([0, most], height - PAD.bottom, PAD.top + 8, { zero: true, about: 4 });
    const step = (width - PAD.left - PAD.right) / layers.length;
    const out = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    const none = Object.assign(() => 0, { ticks: [] });
    out.append(...axes(width, height, none, ys, "layers, from input to output", "relative L2 error", digits, (v) => String(+v.toPrecision(3))));
    layers.forEach((layer, i) => {
      const title = svg("title", {}, `${i + 1}. ${layer.name} (${layer.op})\nrelative L2 error ${digits(layer.error)}`);
      const top = ys(layer.error || 0);
      const wide = Math.max(1, Math.min(step - 2, 46));
      const x = PAD.left + (i + 0.5) * step - wide / 2;
      const css = i === rise ? "column rise" : "column";
      out.append(svg("rect", { class: css, x, y: top, width: wide, height: Math.max(1, height - PAD.bottom - top) }, title));
      if (i === rise) out.append(...pointer(x + wide / 2, top, width, layer));
    });
    return out;
  };
  return drawn(draw, "relative L2 error of each layer, in order");
}

function pointer(x, y, width, layer) {
  const end = x > width * 0.6 ? "end" : x < width * 0.4 ? "start" : "middle";
  const short = layer.name.length > 40 ? `…${layer.name.slice(-38)}` : layer.name;
  return [
    svg("path", { class: "pointer", d: `M${x} ${y - 3}l-5 -7h10z` }),
    svg("text", { class: "name", x: end === "end" ? x + 6 : end === "start" ? x - 6 : x, y: Math.max(11, y - 13), "text-anchor": end }, short),
  ];
}

function layerList(layers, rise) {
  const most = Math.max(...layers.map((x) => x.error || 0)) || 1;
  const row = (x, i) => h("li", { class: i === rise ? "rise" : "" },
    h("code", {}, x.name), h("span", { class: "kind" }, x.op), bar((x.error || 0) / most, "error"),
    h("span", { class: "number" }, digits(x.error)), h("span", { class: "why" }, i === rise ? "the first big rise" : ""));
  return longList(layers, row, "layer");
}

/** Error of the outputs against the fraction of one group's channels removed, a line a group; the steepest have colors. */
function sensitivityCurves(curves) {
  const worst = (c) => Math.max(...c.points.map((p) => p[1] || 0));
  const order = [...curves].filter((c) => c.points.length).sort((a, b) => worst(b) - worst(a));
  const height = 320;
  const draw = (width) => {
    const points = order.flatMap((c) => c.points);
    const xs = scale([0, ...points.map((p) => p[0])], PAD.left, width - PAD.right, { zero: true, most: 1, about: 6 });
    const ys = scale(points.map((p) => p[1] || 0), height - PAD.bottom, PAD.top, { log: true });
    const out = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    out.append(...axes(width, height, xs, ys, "of the group's channels removed", "error of the outputs",
      (v) => `${Math.round(100 * v)} %`, (v) => (v < 0.01 ? v.toExponential(0) : String(+v.toPrecision(1)))));
    order.map((c, i) => [c, i]).reverse().forEach(([c, i]) => {
      const line = c.points.map((p) => `${xs(p[0]).toFixed(1)},${ys(p[1] || 0).toFixed(1)}`).join(" ");
      const said = `${c.name}\n${c.points.map((p) => `${p[2]} of ${c.size} kept: ${digits(p[1])}`).join("\n")}`;
      const css = `curve ${i < SERIES ? `c${i}` : "rest"}`;
      const marks = i < SERIES ? c.points.map((p) => mark(i, xs(p[0]), ys(p[1] || 0), 3.5, { class: "point on" })) : [];
      out.append(svg("g", { class: css }, svg("title", {}, said), svg("polyline", { class: "reach", points: line }),
        svg("polyline", { points: line }), marks));
    });
    return out;
  };
  const key = (c, i) => h("span", { class: "key" },
    svg("svg", { width: 16, height: 16, class: `c${i}`, "aria-hidden": "true" }, mark(i, 8, 8, 5, { class: "point on" })), h("code", {}, c.name));
  const rest = order.length - SERIES;
  return [
    drawn(draw, "error against the fraction removed, a line for each group"),
    h("p", { class: "legend" }, h("span", {}, "Most sensitive:"), order.slice(0, SERIES).map(key),
      rest > 0 ? h("span", {}, `and ${plural(rest, "other")} in gray`) : null),
  ];
}

/** Layer by layer, whether zeros in the pattern are possible, likely to pay, and there. */
function sparsityTable({ pattern, sparsity }) {
  const yes = (b) => (b ? "yes" : "no");
  const head = ["layer", "operator", `can be ${pattern}`, "likely faster", `is ${pattern}`, "magnitude kept", "error", "why not"];
  const line = (x) => [h("code", {}, x.name), x.op, yes(x.eligible), yes(x.likely), yes(x.sparse),
    percent(x.kept), digits(x.error), x.why];
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${pattern} layer by layer` },
    h("table", { class: "plain" }, h("thead", {}, h("tr", {}, head.map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, sparsity.map((x) => h("tr", {}, line(x).map((c) => h("td", {}, c)))))));
}

/** The original, the pruned model, and what int8 made of it. */
function stagesTable(stages) {
  const show = { bytes: (x) => count(x, "B"), share: percent, number: digits, times };
  const cell = (x, unit) => h("td", { class: "number" }, known(x) ? show[unit](x) : unit === "times" ? "too noisy" : "");
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "original, pruned, and pruned + int8" },
    h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["", "original", "pruned", "pruned + int8"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, stages.map(([name, unit, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name), cells.map((x) => cell(x, unit)))))));
}
