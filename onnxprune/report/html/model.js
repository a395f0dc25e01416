// One model: its settings, which of them is best for a budget, and of one setting all there is to say.

const shown = { sort: "macs_left", up: true, x: null, y: null, target: 0.5 };

function modelView(name, at) {
  const mine = byModel.get(name);
  if (!mine) return [h("p", { class: "back" }, h("a", { href: "#/" }, "← all results")), h("h1", {}, "No such model"), h("p", {}, name)];
  const made = details(name).settings;
  const { best } = bestWithin(mine, shown.target);
  const row = known(at) && mine[at] ? mine[at] : best || mine.find((r) => r.status === "done") || mine[0];
  const setting = made.find((s) => s.row === row);
  const head = [
    modelNames.length > 1 || rows.length > 1 ? h("p", { class: "back" }, h("a", { href: "#/" }, "← all results")) : null,
    h("h1", {}, name), h("p", { class: "sub" }, original(mine)),
  ];
  const compared = mine.length > 1 ? [budget(mine), settingsTable(mine, row)] : [ruined(row), single(row)];
  return [...head, ...compared, ...(setting ? settingSections(name, mine, row, setting) : [failure(row)])].filter((x) => x);
}

/** What the model was before. */
function original(mine) {
  const r = mine.find((x) => known(x.params_before)) || mine[0];
  const parts = [r.path, known(r.params_before) ? `${count(r.params_before)} parameters` : null,
    known(r.macs_before) ? `${count(r.macs_before)} MACs` : null, known(r.bytes_before) ? count(r.bytes_before, "B") : null,
    known(r.accuracy_before) ? `accuracy ${percent(r.accuracy_before)}` : null];
  return parts.filter((p) => p).join(" · ");
}

/** The question that people come with: at so much of the work, which setting? With the plot that shows why. */
function budget(mine) {
  const said = h("output", { class: "said", for: "target" });
  const plot = h("div", {});
  const work = workOf(mine);
  const what = work === "macs_left" ? "MACs" : "parameters";
  const range = h("input", { type: "range", id: "target", min: "1", max: "100", value: String(Math.round(100 * shown.target)) });
  const number = h("input", { type: "number", min: "1", max: "100", value: range.value, "aria-label": `per cent of the ${what}` });
  const draw = (changes = {}) => {
    Object.assign(shown, changes);
    said.replaceChildren(...bestSaid(mine, shown.target));
    const choices = axisChoices(mine, shown, draw);
    const { best } = bestWithin(mine, shown.target);
    const how = { names: true, target: shown.x === work ? shown.target : null, best };
    plot.replaceChildren(h("div", { class: "head" }, h("h2", {}, "Pareto front"), choices),
      drawn((width) => scatter(width, mine, shown.x, shown.y, { ...how, height: width < 600 ? 260 : 300 }), "the settings of this model"),
      legend(mine, shown.x, shown.y));
  };
  const moved = (from, to) => from.addEventListener("input", () => {
    if (!from.value) return;
    to.value = from.value;
    draw({ target: from.value / 100 });
  });
  moved(range, number);
  moved(number, range);
  draw();
  return h("section", { class: "budgeted" },
    h("div", { class: "best" }, h("label", { for: "target" }, "Best setting at "), number, ` % of the ${what}`, range, said), plot);
}

function settingsTable(mine, row) {
  const box = h("section", {});
  const columns = columnsOf(mine).filter((c) => c.key !== "model");
  const draw = (key) => {
    box.replaceChildren(h("div", { class: "head" }, h("h2", {}, plural(mine.length, "setting")), sortChoice(columns, shown, draw)),
      sortable(sorted(mine, shown.sort, shown.up), columns, shown, draw, "Settings of this model; the buttons in the head sort the table.", row));
    if (key) box.querySelector(`[data-sort=${key}]`).focus();
  };
  draw();
  return box;
}

/** A model with one result needs no table. */
function single(r) {
  const cells = columnsOf([r]).filter((c) => c.number && known(r[c.key]));
  return h("dl", { class: "cards" }, cells.map((c) => h("div", {}, h("dt", {}, c.title), h("dd", {}, c.cell(r)))));
}

/** A single result that is degraded says so above its numbers. */
const ruined = (row) => (row.status === "degraded" ? h("p", {}, statusOf(row), " ", h("span", { class: "message" }, row.message)) : null);

const failure = (row) => h("section", {}, h("h2", {}, row.setting), h("p", {}, statusOf(row), " ", h("span", { class: "message" }, row.message)));

function settingSections(name, mine, row, s) {
  const gone = s.groups.reduce((n, g) => n + g.size - g.kept, 0);
  const all = s.groups.reduce((n, g) => n + g.size, 0);
  const cut = s.groups.filter((g) => g.kept < g.size).length;
  const tab = (r, i) => h("a", { href: link("model", name, String(i)), "aria-current": r === row ? "true" : null }, r.setting);
  const tabs = mine.length > 1 ? h("nav", { class: "tabs", id: "tabs", "aria-label": "settings" }, mine.map(tab)) : null;
  const kept = s.groups.length
    ? [h("p", { class: "sub" }, `${gone.toLocaleString("en")} of ${plural(all, "channel")} removed, from ${cut} of ${plural(s.groups.length, "group")}.`), ...keptBars(s.groups)]
    : [h("p", {}, "The model has no group that could be pruned; below is why.")];
  return [
    tabs,
    part("facts", row.setting, [h("dl", { class: "facts" }, s.facts.flatMap(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]))]),
    s.stages.length ? part("stages", "Pruned, then int8", [stagesTable(s.stages)]) : null,
    part("kept", "Kept channels of each group", kept),
    errorSection(s),
    s.curves && s.curves.length ? part("curves", "How sensitive each group is",
      [h("p", { class: "sub" }, "Each group pruned alone, and how far the outputs moved on the calibration data."), ...sensitivityCurves(s.curves)]) : null,
    s.sparsity.length ? part("sparsity", `${s.pattern} sparsity`, [sparsityTable(s)]) : null,
    frozenSection(name, s),
  ];
}

const part = (id, title, content) => h("section", { id }, h("h2", {}, title), ...content);

function errorSection(s) {
  if (!s.layers.length) return null;
  const first = s.rise === null ? null : s.layers[s.rise];
  const before = first ? Math.max(0, ...s.layers.slice(0, s.rise).map((x) => x.error || 0)) : 0;
  const said = first
    ? ["First big rise: ", h("code", {}, first.name), `, layer ${s.rise + 1} of ${s.layers.length}, from ${digits(before)} to ${digits(first.error)}.`]
    : ["No layer's output changed."];
  return part("error", "Where the error enters", [h("p", { class: "sub" }, said), layerColumns(s.layers, s.rise),
    h("details", {}, h("summary", {}, "The layers as a list"), ...layerList(s.layers, s.rise))]);
}

/** Frozen axes by reason, most frequent first; and any weight, asked for by name. */
function frozenSection(name, s) {
  const state = { text: "", structural: false };
  const box = h("div", {});
  const draw = () => {
    const axes = s.frozen.filter((f) => state.structural || !f.structural);
    const asked = state.text.trim();
    if (asked) box.replaceChildren(...answers(asked, [name], true));
    else box.replaceChildren(...byReason(axes));
  };
  const text = h("input", { type: "search", id: "frozen-filter", placeholder: "a part of a name",
    input: (e) => { state.text = e.target.value; draw(); } });
  const never = h("input", { type: "checkbox", id: "structural", change: (e) => { state.structural = e.target.checked; draw(); } });
  draw();
  return part("frozen", "Frozen weights, with the reason", [
    h("div", { class: "filters" }, h("label", {}, "layer or weight ", text), h("label", {}, never, " also axes that are never channels (kernel positions)")), box]);
}

function byReason(axes) {
  if (!axes.length) return [h("p", {}, "Nothing is frozen: every axis of every weight belongs to a group.")];
  const reasons = new Map();
  for (const f of axes) {
    if (!reasons.has(f.reason)) reasons.set(f.reason, []);
    reasons.get(f.reason).push(f);
  }
  const order = [...reasons].sort((a, b) => b[1].length - a[1].length);
  const item = (f) => h("li", {}, h("code", {}, f.tensor), ` axis ${f.axis} (${f.size})`,
    f.stops.length ? h("span", { class: "route" }, ` ← ${routeOf(f).join(" ← ")}`) : null);
  return order.map(([reason, of], i) => h("details", { open: i < 3 && of.length <= 12 },
    h("summary", {}, h("strong", {}, reason), h("small", {}, ` ${plural(of.length, "axis", "axes")}`)), ...longList(of, item, "axis", 40)));
}
