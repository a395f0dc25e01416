// Scatter plots with axes, drawn as wide as there is room.

const SERIES = 6; // colors, each with a mark of its own
const PAD = { top: 14, right: 24, bottom: 42, left: 72 };

/** A place that is drawn when it is there, and again when its width changes. */
function drawn(draw, label) {
  const box = h("div", { class: "plot" });
  let last = 0;
  new ResizeObserver(() => {
    const width = Math.floor(box.clientWidth);
    if (!width || width === last) return;
    last = width;
    box.replaceChildren(draw(width));
    box.firstChild.setAttribute("role", "group");
    box.firstChild.setAttribute("aria-label", label);
  }).observe(box);
  return box;
}

function linearTicks(low, high, about) {
  const rough = (high - low) / about;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) ticks.push(v);
  return ticks;
}

function logTicks(low, high) {
  const few = Math.log10(high / low) > 2.2 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const m of few) if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) ticks.push(m * 10 ** e);
  }
  return ticks;
}

/** A function from values to pixels that knows its ticks; it spans `least` even where values are close together, or all one. */
function scale(values, from, to, { log = false, zero = false, most = Infinity, least = 0, about = 5 }) {
  const positive = log ? values.filter((v) => v > 0) : values;
  let low = positive.length ? Math.min(...positive) : log ? 0.1 : 0;
  let high = positive.length ? Math.max(...positive) : 1;
  if (log) {
    const room = Math.max(1.25, Math.sqrt((4 * low) / high)); // a factor of four has two ticks
    [low, high] = [low / room, high * room];
  } else {
    const room = Math.max((high - low || Math.abs(high) || 1) * 0.08, (least - (high - low)) / 2);
    [low, high] = [zero ? 0 : low - room, Math.min(high + room, Math.max(most, high))];
  }
  const f = log ? (v) => Math.log10(Math.max(v, low)) : (v) => v;
  const at = (v) => from + ((f(v) - f(low)) / (f(high) - f(low))) * (to - from);
  return Object.assign(at, { ticks: log ? logTicks(low, high) : linearTicks(low, high, about), low, high });
}

function axes(width, height, x, y, xTitle, yTitle, xShow, yShow) {
  const right = width - PAD.right;
  const bottom = height - PAD.bottom;
  const parts = y.ticks.flatMap((v) => [
    svg("line", { class: "grid", x1: PAD.left, x2: right, y1: y(v), y2: y(v) }),
    svg("text", { x: PAD.left - 8, y: y(v) + 4, "text-anchor": "end" }, yShow(v)),
  ]);
  parts.push(...x.ticks.flatMap((v) => [
    svg("line", { class: "grid", x1: x(v), x2: x(v), y1: PAD.top, y2: bottom }),
    svg("text", { x: x(v), y: bottom + 17, "text-anchor": "middle" }, xShow(v)),
  ]));
  parts.push(svg("line", { class: "axis", x1: PAD.left, x2: right, y1: bottom, y2: bottom }));
  parts.push(svg("text", { class: "title", x: (PAD.left + right) / 2, y: height - 6, "text-anchor": "middle" }, xTitle));
  const middle = (PAD.top + bottom) / 2;
  const turned = { class: "title", x: 0, y: 0, "text-anchor": "middle", transform: `translate(13 ${middle}) rotate(-90)` };
  parts.push(svg("text", turned, yTitle));
  return parts;
}

const tick = (show) => (v) => show(v).replace(/\.0+(?= |$|×)/, "").replace(/(\.\d*?)0+$/, "$1");

/** A mark of its own for each series: color is never all that tells two apart. */
function mark(kind, x, y, r, attributes, ...children) {
  const p = (dx, dy) => `${(x + dx * r).toFixed(1)},${(y + dy * r).toFixed(1)}`;
  const corners = [
    null,
    [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]],
    [[0, -1.3], [1.2, 0], [0, 1.3], [-1.2, 0]],
    [[-1.1, -0.8], [1.1, -0.8], [0, 1.2]],
    [[-0.6, -1.1], [0.6, -1.1], [1.2, 0], [0.6, 1.1], [-0.6, 1.1], [-1.2, 0]],
  ][kind % SERIES];
  if (!corners) return svg("circle", { cx: x, cy: y, r, ...attributes }, ...children);
  return svg("polygon", { points: corners.map(([dx, dy]) => p(dx, dy)).join(" "), ...attributes }, ...children);
}

const of = (r, k) => (k === "top1_agreement" ? ` of ${plural(r.samples, "sample")}` : "");
const told = (r) => QUALITIES.filter((k) => known(r[k])).map((k) => `${MEASURES[k].title} ${MEASURES[k].show(r[k])}${of(r, k)}`);
const hover = (r) => `${r.model}, ${r.setting}${r.status === "done" ? "" : `, ${r.status}`}\nMACs left ${percent(r.macs_left)}\n${told(r).join("\n")}`;

/**
 * Results as points, quality against cost. Points on their own model's Pareto front are filled and joined.
 * Few models have a color and a mark each. `names` writes the settings beside the points, `target` marks a budget.
 */
function scatter(width, some, x, y, { names = false, target = null, best = null, height = 340 } = {}) {
  const shown = some.filter((r) => known(r[x]) && known(r[y]));
  if (!shown.length) return svg("svg", { width, height: 60 }, svg("text", { x: 10, y: 30 }, "Nothing of this was measured."));
  const models = [...new Set(shown.map((r) => r.model))];
  const few = models.length <= SERIES;
  const [mx, my] = [MEASURES[x], MEASURES[y]];
  const xs = scale(target === null ? shown.map((r) => r[x]) : [...shown.map((r) => r[x]), target], PAD.left, width - PAD.right,
    { most: 1, least: 0.1, about: Math.min(8, Math.max(3, width / 110)) });
  const ys = scale(shown.map((r) => r[y]), height - PAD.bottom, PAD.top, { log: my.log, most: 1 });
  const out = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  const arrow = (m) => `${m.title} (${m.low ? "less" : "more"} is better)`;
  out.append(...axes(width, height, xs, ys, arrow(mx), arrow(my), tick(mx.show), tick(my.show)));
  if (target !== null) out.append(...budgetLine(xs, target, height));
  const points = [];
  const byName = new Map(models.map((m) => [m, []]));
  for (const r of shown) byName.get(r.model).push(r);
  models.forEach((name, i) => {
    const best = front(byName.get(name).filter((r) => r.status !== "degraded"), x, y);
    const kind = few ? i : 0;
    const line = best.map((r) => `${xs(r[x]).toFixed(1)},${ys(r[y]).toFixed(1)}`).join(" ");
    const group = svg("g", { class: `series c${few ? i : "x"}` }, svg("polyline", { class: "front", points: line }));
    for (const r of byName.get(name)) {
      const on = best.includes(r);
      const attributes = { class: `point${on ? " on" : ""}${r.status === "degraded" ? " degraded" : ""}` };
      const where = { href: toModel(r), tabindex: names ? "0" : "-1", "aria-label": hover(r) };
      group.append(svg("a", where, mark(kind, xs(r[x]), ys(r[y]), few ? 6 : 3.5, attributes, svg("title", {}, hover(r)))));
      points.push({ x: xs(r[x]), y: ys(r[y]), text: r.setting, on });
    }
    out.append(group);
  });
  if (best) out.append(svg("circle", { class: "ring", cx: xs(best[x]), cy: ys(best[y]), r: 11 }));
  if (names) out.append(...labels(points, width, height));
  return out;
}

function budgetLine(xs, target, height) {
  const at = xs(target);
  return [
    svg("rect", { class: "within", x: PAD.left, y: PAD.top, width: Math.max(0, at - PAD.left), height: height - PAD.bottom - PAD.top }),
    svg("line", { class: "target", x1: at, x2: at, y1: PAD.top, y2: height - PAD.bottom }),
  ];
}

/** Names beside points, those on the front first; one that would cover another is left to the hover title. */
function labels(points, width, height) {
  const taken = points.map((p) => [p.x - 7, p.y - 7, p.x + 7, p.y + 7]);
  const clear = (b) => b[0] > PAD.left && b[2] < width && b[1] > 0 && b[3] < height - PAD.bottom
    && !taken.some((t) => b[0] < t[2] && b[2] > t[0] && b[1] < t[3] && b[3] > t[1]);
  const out = [];
  for (const p of [...points].sort((a, b) => b.on - a.on)) {
    const long = p.text.length * 6.4;
    const places = [[11, 4, "start"], [-11, 4, "end"], [0, -12, "middle"], [0, 20, "middle"]];
    for (const [dx, dy, anchor] of places) {
      const left = p.x + dx - (anchor === "end" ? long : anchor === "middle" ? long / 2 : 0);
      const box = [left, p.y + dy - 11, left + long, p.y + dy + 3];
      if (!clear(box)) continue;
      taken.push(box);
      out.push(svg("text", { class: "name", x: p.x + dx, y: p.y + dy, "text-anchor": anchor }, p.text));
      break;
    }
  }
  return out;
}

/** What colors and marks stand for. */
function legend(some, x, y) {
  const models = [...new Set(some.filter((r) => known(r[x]) && known(r[y])).map((r) => r.model))];
  const entry = (kind, css, text) => h("span", { class: "key" },
    svg("svg", { width: 16, height: 16, class: css, "aria-hidden": "true" }, mark(kind, 8, 8, 5, { class: "point on" })), text);
  const hollow = h("span", { class: "key" },
    svg("svg", { width: 16, height: 16, class: models.length === 1 ? "c0" : "ck", "aria-hidden": "true" }, mark(0, 8, 8, 5, { class: "point" })), "dominated");
  const own = models.length > 1 ? "on its model's Pareto front" : "on the Pareto front";
  const each = models.length > 1 && models.length <= SERIES ? models.map((m, i) => entry(i, `c${i}`, m)) : [];
  return h("p", { class: "legend" }, ...each, entry(0, models.length === 1 ? "c0" : "ck", own), hollow);
}
