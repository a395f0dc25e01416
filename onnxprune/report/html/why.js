// Why was it not pruned? Every weight of every model, by its name, the nodes that read it, or its group.

const MOST = 40; // answers at once

/** Where every word of a question is in the model's or the weight's names; the shorter the name, the nearer. */
function findWeights(question, names) {
  const words = question.toLowerCase().split(/\s+/).filter((w) => w);
  const found = [];
  for (const name of words.length ? names : []) {
    const seen = new Set();
    for (const setting of details(name).settings) {
      for (const w of setting.weights) {
        if (seen.has(w.name)) continue;
        seen.add(w.name);
        const own = [w.name, ...w.nodes, ...w.axes.flat()].join("\n").toLowerCase();
        const model = name.toLowerCase();
        if (words.every((x) => own.includes(x) || model.includes(x)) && words.some((x) => own.includes(x))) {
          found.push({ model: name, weight: w, far: distance(words, w) });
        }
      }
    }
  }
  return found.sort((a, b) => a.far - b.far);
}

function distance(words, w) {
  const hit = [w.name, ...w.nodes].filter((n) => words.some((x) => n.toLowerCase().includes(x)));
  const exact = [w.name, ...w.nodes].some((n) => words.includes(n.toLowerCase()));
  const small = w.shape.length < 2 ? 500 : 0; // biases after the weights they belong to
  return exact ? 0 : hit.length ? Math.min(...hit.map((n) => n.length)) + small : 1000 + w.name.length + small;
}

/** What became of one axis: in each setting where a group owns it, else what freezes it. */
function axisAnswer(model, w, axis) {
  const settings = details(model).settings;
  const owners = w.axes[axis];
  const label = h("dt", {}, `axis ${axis}`, h("small", {}, ` ${w.shape[axis]}`));
  const parts = owners.map((name) => groupAnswer(settings, name));
  const frozen = settings[0].frozen.find((f) => f.tensor === w.name && f.axis === axis);
  if (frozen) parts.push(frozenAnswer(frozen, owners.length));
  if (!parts.length) parts.push(h("p", {}, w.shape[axis] === 1 ? "A single position." : "No channels lie along it."));
  return [label, h("dd", {}, parts)];
}

function groupAnswer(settings, name) {
  const of = settings.map((s) => ({ s, g: s.groups.find((g) => g.name === name) })).filter((x) => x.g);
  const one = ({ s, g }) => h("li", {}, h("a", { href: toModel(s.row) }, s.row.setting), `: ${g.kept} of ${g.size} kept`,
    g.why ? h("em", {}, ` – ${g.why}`) : null);
  return [h("p", {}, "channels of group ", h("code", {}, name)), h("ul", {}, of.map(one))];
}

const routeOf = (f) => f.stops.flatMap((s, i) => (i === 8 && f.left ? [`… ${f.left} more …`, s] : [s]));

function frozenAnswer(f, partly) {
  const route = routeOf(f).join(" ← ");
  const said = f.structural ? "never channels: " : partly ? "partly frozen: " : "frozen: ";
  return h("p", {}, said, h("strong", {}, f.reason), route ? h("span", { class: "route" }, ` ← ${route}`) : null);
}

/** In a word: did any setting take something of this weight? */
function verdict(model, w) {
  const settings = details(model).settings;
  const owners = new Set(w.axes.flat());
  const cut = settings.filter((s) => s.groups.some((g) => owners.has(g.name) && g.kept < g.size));
  if (!owners.size) return "cannot be pruned";
  if (!cut.length) return "left whole by every setting";
  return cut.length === settings.length ? "pruned by every setting" : `pruned by ${cut.length} of ${settings.length} settings`;
}

function answer({ model, weight }, inModel) {
  return h("article", { class: "answer" },
    h("h3", {}, h("code", {}, weight.name), inModel ? null : [" in ", h("a", { href: link("model", model) }, model)],
      h("span", { class: "verdict" }, verdict(model, weight))),
    h("p", { class: "sub" }, `[${weight.shape.join(", ")}]`, weight.nodes.length ? ` read by ${weight.nodes.slice(0, 4).join(", ")}` : ""),
    h("dl", {}, weight.shape.flatMap((_, axis) => axisAnswer(model, weight, axis))));
}

/** Somebody who looks for a model finds it here too. */
function modelsCalled(question) {
  const named = modelNames.filter((n) => n.toLowerCase().includes(question.trim().toLowerCase()));
  if (!named.length) return null;
  const links = named.slice(0, MOST).flatMap((n) => [" ", h("a", { href: link("model", n) }, n)]);
  return h("p", {}, `${named.length === 1 ? "Model" : "Models"} of that name:`, links, named.length > MOST ? " …" : "");
}

function answers(question, names, inModel = false) {
  const found = findWeights(question, names);
  const without = names.filter((n) => !details(n).settings.length).length;
  const gone = without && !found.length ? ` (${plural(without, "model")} without a finished result cannot be asked.)` : "";
  const called = inModel ? null : modelsCalled(question);
  if (!found.length) return [called, h("p", {}, `No weight, layer or group has “${question}” in its name.${gone}`)].filter((x) => x);
  const more = found.length > MOST ? h("p", {}, `… and ${plural(found.length - MOST, "more weight")}: say more of the name, or the model's.`) : null;
  return [called, h("p", { class: "sub" }, plural(found.length, "weight")), ...found.slice(0, MOST).map((f) => answer(f, inModel)), more].filter((x) => x);
}

function whyView(question) {
  const first = question.trim() ? answers(question, modelNames) : [h("p", {}, "Write a part of a layer's, a weight's or a group's name above; and of the model's, where there are many.")];
  return [h("p", { class: "back" }, h("a", { href: "#/" }, "← all results")), h("h1", {}, question.trim() ? `Why: “${question}”` : "Why was it not pruned?"), ...first];
}
