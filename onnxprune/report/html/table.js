// The first view: every result in one table, and their errors against what is left.

const PAGE = 100;
const view = { sort: "model", up: true, text: "", status: "", setting: "", best: false, target: 0.5, page: 0, x: null, y: null };

/** A number with a bar of its share, and what it is of in small. */
const share = (key, what, unit) => (r) => [
  h("span", { class: "meter", style: `--v:${Math.min(1, r[key] || 0)}` }, percent(r[key])),
  h("small", {}, known(r[`${what}_after`]) ? count(r[`${what}_after`], unit) : ""),
];

const HOW = { done: "✓", degraded: "▽", failed: "✕", crashed: "✕", timeout: "◷", memory: "▤", pending: "…" };
const statusOf = (r) => h("span", { class: `status ${r.status}`, title: r.message || null }, `${HOW[r.status] || "?"} ${r.status}`);
/** A job may have failed, or ruined the model, and left numbers all the same: then its message is here. */
const statusCell = (r) => [statusOf(r), known(r.params_after) && r.status !== "done" ? h("div", { class: "message" }, r.message) : null];

const speedup = (r) => {
  if (r.speedup_verdict === "noisy") return h("small", {}, "too noisy to say");
  const interval = known(r.speedup_low) ? h("small", {}, ` ${r.speedup_low.toFixed(2)} to ${r.speedup_high.toFixed(2)}`) : null;
  return known(r.speedup) ? [times(r.speedup), interval] : "–";
};

/** `cell` makes what is in it, `key` is what it is sorted by, `down`: large values first. */
const COLUMNS = [
  { key: "model", title: "model", cell: (r) => h("a", { href: link("model", r.model) }, r.model) },
  { key: "setting", title: "setting", cell: (r) => (known(r.params_after) ? h("a", { href: toModel(r) }, r.setting) : r.setting) },
  { key: "status", title: "status", cell: statusCell },
  { key: "macs_left", title: "MACs left", cell: share("macs_left", "macs", ""), number: true },
  { key: "params_left", title: "params left", cell: share("params_left", "params", ""), number: true },
  { key: "bytes_left", title: "bytes left", cell: share("bytes_left", "bytes", "B"), number: true },
  { key: "relative_l2", title: "L2 error", hint: "relative L2 error of the outputs", cell: (r) => digits(r.relative_l2), number: true },
  { key: "top1_agreement", title: "agreement", hint: "how often both prefer the same class", 
    cell: (r) => (known(r.top1_agreement) ? [percent(r.top1_agreement), h("small", {}, `of ${r.samples.toLocaleString("en")}`)] : "–"), number: true, down: true },
  { key: "accuracy_after", title: "accuracy", hint: "on labelled data, before and after", number: true, down: true,
    cell: (r) => (known(r.accuracy_after) ? [h("small", {}, `${percent(r.accuracy_before)} →`), ` ${percent(r.accuracy_after)}`] : "–") },
  { key: "speedup", title: "speed-up", hint: "time before / after, and the interval that it lies in", cell: speedup, number: true, down: true },
  { key: "eligible_2_4", title: "2:4", hint: "layers that can be 2:4, of all", number: true, down: true,
    cell: (r) => (known(r.eligible_2_4) ? `${r.eligible_2_4} / ${r.layers_2_4}` : "–") },
];
const OPTIONAL = ["eligible_2_4", "top1_agreement", "accuracy_after", "speedup"];
const columnsOf = (some) => COLUMNS.filter((c) => !OPTIONAL.includes(c.key) || some.some((r) => known(r[c.key])));

/** Unknown values come last, whichever way it is sorted. */
function sorted(some, key, up) {
  const compare = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  return [...some].sort((a, b) => {
    if (known(a[key]) !== known(b[key])) return known(a[key]) ? -1 : 1;
    return (known(a[key]) ? (up ? 1 : -1) * compare(a[key], b[key]) : 0) || a.at - b.at;
  });
}

function filtered() {
  const words = view.text.toLowerCase().split(/\s+/).filter((w) => w);
  const inside = (r) => `${r.model} ${r.path} ${r.setting} ${r.status} ${r.message}`.toLowerCase();
  let some = rows.filter((r) => (!view.status || r.status === view.status) && (!view.setting || r.setting === view.setting));
  if (words.length) some = some.filter((r) => words.every((w) => inside(r).includes(w)));
  if (!view.best) return some;
  const left = new Set(some);
  const best = modelNames.map((m) => bestWithin(byModel.get(m).filter((r) => left.has(r)), view.target).best);
  return best.filter((r) => r);
}

/** Rows as cells; a job that failed has its message where the numbers would be. */
function line(r, columns, chosen) {
  const first = columns.findIndex((c) => c.number);
  const cell = (c) => h("td", { class: c.number ? "number" : null, "data-label": c.title }, c.cell(r));
  if (known(r.params_after)) return h("tr", { "aria-current": r === chosen ? "true" : null }, columns.map(cell));
  const message = h("td", { colspan: String(columns.length - first), class: "message", title: r.message }, r.message || "nothing to show yet");
  return h("tr", { class: "bare" }, columns.slice(0, first).map(cell), message);
}

/** A table with buttons in its head that sort it; `state` has `sort` and `up`, `again` draws it anew. */
function sortable(some, columns, state, again, caption, chosen = null) {
  const by = (c) => () => {
    state.up = state.sort === c.key ? !state.up : !c.down;
    state.sort = c.key;
    again(c.key);
  };
  const head = (c) => h("th", { scope: "col", class: c.number ? "number" : null, title: c.hint,
    "aria-sort": state.sort === c.key ? (state.up ? "ascending" : "descending") : "none" },
    h("button", { type: "button", "data-sort": c.key, click: by(c) }, c.title));
  return h("table", { class: "results" }, h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, columns.map(head))), h("tbody", {}, some.map((r) => line(r, columns, chosen))));
}

/** Phones have no table head to press: the same as a list to choose from. */
function sortChoice(columns, state, again) {
  const options = columns.flatMap((c) => [true, false].map((up) =>
    h("option", { value: `${c.key} ${up}`, selected: state.sort === c.key && state.up === up }, `${c.title} ${up ? "↑" : "↓"}`)));
  const change = (e) => {
    const [key, up] = e.target.value.split(" ");
    Object.assign(state, { sort: key, up: up === "true" });
    again();
  };
  return h("label", { class: "narrow" }, "sort by ", h("select", { change }, options));
}

function choice(label, options, value, change) {
  const made = options.map(([v, text]) => h("option", { value: v, selected: v === value }, text));
  return h("label", {}, `${label} `, h("select", { "aria-label": label, change: (e) => change(e.target.value) }, made));
}

function tally(key) {
  const counts = new Map();
  for (const r of rows) counts.set(r[key], (counts.get(r[key]) || 0) + 1);
  return [...counts];
}

function filters(changed) {
  const set = (key) => (value) => changed({ [key]: value, page: 0 });
  const settings = tally("setting");
  const text = h("input", { type: "search", id: "filter", placeholder: "model, setting, message", value: view.text,
    input: (e) => set("text")(e.target.value) });
  const share = h("input", { type: "number", id: "share", min: "1", max: "100", step: "1", value: String(Math.round(100 * view.target)),
    "aria-label": "per cent of the MACs", input: () => within() });
  const within = () => {
    only.checked = true;
    if (share.value) changed({ target: share.value / 100, best: true, page: 0 });
  };
  const only = h("input", { type: "checkbox", id: "best", checked: view.best, change: (e) => set("best")(e.target.checked) });
  return h("div", { class: "filters" }, h("label", {}, "filter ", text),
    choice("status", [["", "all"], ...tally("status").map(([s, n]) => [s, `${s} (${n})`])], view.status, set("status")),
    settings.length > 1 && settings.length <= 60
      ? choice("setting", [["", "all"], ...settings.map(([s, n]) => [s, `${s} (${n})`])], view.setting, set("setting")) : null,
    h("span", { class: "budget" }, h("label", {}, only, " only each model's best within "), share, " % of its MACs"));
}

/** What the axes of a plot show, to choose from. */
function axisChoices(some, state, changed) {
  const xs = measured(COSTS, some);
  const ys = measured(QUALITIES, some);
  if (!xs.includes(state.x)) state.x = xs[0] || COSTS[0];
  if (!ys.includes(state.y)) state.y = ys[0] || QUALITIES[0];
  const titles = (keys) => keys.map((k) => [k, MEASURES[k].title]);
  return h("div", { class: "axes" }, choice("show", titles(ys), state.y, (y) => changed({ y })),
    choice("against", titles(xs), state.x, (x) => changed({ x })));
}

function pager(all, again) {
  const pages = Math.ceil(all.length / PAGE);
  if (pages < 2) return null;
  const to = (page, text, off) => h("button", { type: "button", disabled: off, click: () => again({ page }) }, text);
  return h("nav", { class: "pager", "aria-label": "pages of the table" },
    to(view.page - 1, "← previous", view.page === 0),
    h("span", {}, `${view.page * PAGE + 1}–${Math.min(all.length, (view.page + 1) * PAGE)} of ${all.length.toLocaleString("en")}`),
    to(view.page + 1, "next →", view.page >= pages - 1));
}

function overview() {
  const result = h("section", { id: "results" });
  const heard = h("p", { class: "unseen", role: "status" });
  const draw = (changes = {}, focus = null) => {
    Object.assign(view, changes);
    const all = sorted(filtered(), view.sort, view.up);
    const columns = columnsOf(rows);
    const again = (key) => draw({ page: 0 }, key);
    const caption = "Models and settings; the buttons in the head sort the table.";
    const choices = axisChoices(rows, view, (c) => draw(c));
    result.replaceChildren(
      h("div", { class: "head" }, h("h2", {}, `${MEASURES[view.y].title[0].toUpperCase()}${MEASURES[view.y].title.slice(1)} against ${MEASURES[view.x].title}`), choices),
      drawn((width) => scatter(width, all, view.x, view.y, { height: width < 600 ? 280 : 340 }), "every result as a point"),
      legend(all, view.x, view.y),
      h("div", { class: "head" }, h("h2", { class: "tally" }, plural(all.length, "result")), sortChoice(columns, view, again)),
      sortable(all.slice(view.page * PAGE, (view.page + 1) * PAGE), columns, view, again, caption),
      ...[pager(all, draw)].filter((p) => p));
    heard.textContent = plural(all.length, "result");
    if (focus) result.querySelector(`[data-sort=${focus}]`).focus();
  };
  draw();
  const said = tally("status").map(([s, n]) => `${n.toLocaleString("en")} ${s}`).join(", ");
  return [h("h1", {}, `${plural(modelNames.length, "model")}, ${plural(rows.length, "result")}`), h("p", { class: "sub" }, said), filters(draw), heard, result];
}
