// Elements, numbers for people, the data, and what can be measured of a result.

const el = (id) => document.getElementById(id);

/** An element; attributes that are functions are listeners, children that are null are left out. Text is never markup. */
function node(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return made;
}
const h = (tag, attributes, ...children) => node(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  node(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Numbers

const known = (x) => x !== null && x !== undefined;
const percent = (x) => (known(x) ? `${(100 * x).toFixed(1)} %` : "–");
const digits = (x) => (!known(x) ? "–" : x === 0 ? "0" : Math.abs(x) < 0.001 ? x.toExponential(1) : x.toPrecision(3));
const plural = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many || one + "s"}`;
const times = (x) => (known(x) ? `${x.toFixed(2)}×` : "–");

/** 1234567 -> `1.23 M`. */
function count(n, unit = "") {
  if (!known(n)) return "–";
  let size = n;
  for (const prefix of ["", "k", "M", "G", "T"]) {
    if (Math.abs(size) < 999.5 || prefix === "T") return `${prefix ? size.toPrecision(3) : size} ${prefix}${unit}`.trim();
    size /= 1000;
  }
}

function duration(s) {
  if (!known(s)) return "–";
  if (s >= 120) return `${(s / 60).toPrecision(3)} min`;
  return s >= 1 ? `${s.toPrecision(3)} s` : s >= 1e-3 ? `${(s * 1e3).toPrecision(3)} ms` : `${(s * 1e6).toPrecision(3)} µs`;
}

// Data: the table is read at once, what there is of a model when somebody asks.

const table = JSON.parse(document.querySelector("script.rows").textContent);
const rows = table.rows.map((cells, at) => {
  const row = Object.fromEntries(table.columns.map((c, i) => [c, cells[i]]));
  return Object.assign(row, { at });
});
const byModel = new Map();
for (const row of rows) {
  if (!byModel.has(row.model)) byModel.set(row.model, []);
  byModel.get(row.model).push(row);
}
const modelNames = [...byModel.keys()];
const blocks = new Map([...document.querySelectorAll("script.model")].map((b, i) => [modelNames[i], b]));
const opened = new Map();

/** What a model's settings made of it: groups, layers, frozen axes, with the names put in. */
function details(name) {
  if (!opened.has(name)) opened.set(name, unpacked(JSON.parse(blocks.get(name).textContent)));
  return opened.get(name);
}

function unpacked(m) {
  const s = (i) => m.strings[i];
  const all = (kind, as) => m.shared[kind].map((list) => list.map(as));
  const groups = all("groups", ([name, kind, size, exact]) => ({ name: s(name), kind: s(kind), size, exact: !!exact }));
  const curves = all("curves", ([name, size, points]) => ({ name: s(name), size, points }));
  const weights = all("weights", ([name, shape, nodes, axes]) => ({
    name: s(name), shape, nodes: nodes.map(s), axes: axes.map((axis) => axis.map(s)),
  }));
  const frozen = all("frozen", ([tensor, axis, size, reason, structural, stops, left]) => ({
    tensor: s(tensor), axis, size, reason: s(reason), structural: !!structural, stops: stops.map(s), left,
  }));
  const settings = m.settings.map((d) => ({
    row: rows[d.row], facts: d.facts, rise: d.rise, pattern: d.pattern, stages: d.stages, weights: weights[d.weights], frozen: frozen[d.frozen],
    groups: groups[d.groups].map((g, i) => ({ ...g, kept: d.kept[i], why: s(d.why[i]) })),
    curves: known(d.curves) ? curves[d.curves] : null,
    layers: d.layers.map(([name, op, error]) => ({ name: s(name), op: s(op), error })),
    sparsity: d.sparsity.map(([name, op, why, eligible, likely, sparse, kept, error]) => ({
      name: s(name), op: s(op), why: s(why), eligible: !!eligible, likely: !!likely, sparse: !!sparse, kept, error,
    })),
  }));
  return { name: m.name, settings };
}

// What is measured of a result. `low`: less is better.

const MEASURES = {
  macs_left: { title: "MACs left", low: true, show: percent },
  params_left: { title: "parameters left", low: true, show: percent },
  bytes_left: { title: "bytes left", low: true, show: percent },
  speedup: { title: "speed-up", low: false, show: times },
  relative_l2: { title: "relative L2 error", low: true, show: digits, log: true },
  top1_agreement: { title: "top-1 agreement", low: false, show: percent },
  accuracy_after: { title: "accuracy", low: false, show: percent },
};
const COSTS = ["macs_left", "params_left", "bytes_left", "speedup"];
const QUALITIES = ["relative_l2", "top1_agreement", "accuracy_after"];
const measured = (keys, some) => keys.filter((k) => some.some((r) => known(r[k])));

// Addresses within the page

const link = (...parts) => "#/" + parts.map(encodeURIComponent).join("/");
const toModel = (row) => link("model", row.model, String(byModel.get(row.model).indexOf(row)));
