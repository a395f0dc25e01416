// Which result is best: on the Pareto front, and within a budget.

/** The results that no other beats in both, from the cheapest on. */
function front(some, x, y) {
  const sign = MEASURES[y].low ? 1 : -1;
  const cost = MEASURES[x].low ? 1 : -1;
  const sorted = some.filter((r) => known(r[x]) && known(r[y])).sort((a, b) => cost * (a[x] - b[x]) || sign * (a[y] - b[y]));
  let best = Infinity;
  return sorted.filter((r) => {
    const better = sign * r[y] < best;
    if (better) best = sign * r[y];
    return better;
  });
}

const ROUNDED = 0.0005; // half of the last digit that is shown
const A_LITTLE = 0.02; // so far over a budget there may be something worth knowing of

/** What of the work is left; where nobody could count MACs, of the parameters. */
const workOf = (some) => (some.some((r) => known(r.macs_left)) ? "macs_left" : "params_left");

const ENOUGH = 32; // samples; how often classes agree on fewer is mostly chance

/** By what results are told apart: accuracy, else agreement on enough samples, else error; the first that all of them have. */
function yardstick(some) {
  const has = { relative_l2: () => true, accuracy_after: () => true, top1_agreement: (r) => r.samples >= ENOUGH };
  const order = ["accuracy_after", "top1_agreement", "relative_l2"];
  return order.find((k) => some.length && some.every((r) => known(r[k]) && has[k](r))) || null;
}

/** The best result of a model at or under a share of its MACs, and by what it was chosen. */
function bestWithin(some, share) {
  const work = workOf(some);
  const done = some.filter((r) => r.status === "done" && known(r[work])); // never a degraded one
  const fit = done.filter((r) => r[work] <= share + ROUNDED);
  const compared = fit.filter((r) => known(r.relative_l2) || known(r.top1_agreement) || known(r.accuracy_after));
  const by = yardstick(compared);
  const order = [by, "accuracy_after", "relative_l2", "top1_agreement", work].filter((k) => k);
  const better = (a, b) => {
    for (const k of order) {
      const difference = known(a[k]) && known(b[k]) ? (MEASURES[k].low ? a[k] - b[k] : b[k] - a[k]) : 0;
      if (difference) return difference;
    }
    return a.at - b.at;
  };
  const smallest = done.reduce((a, b) => (a && a[work] <= b[work] ? a : b), null);
  return { best: by ? [...compared].sort(better)[0] : null, by, work, of: compared.length, fit: fit.length, smallest };
}

/** How often the classes are the same, and of how many samples. */
const agreed = (r) => `the same class for ${percent(r.top1_agreement)} of ${plural(r.samples, "sample")}`;

/** The same in words. */
function bestSaid(some, share) {
  const found = bestWithin(some, share);
  const what = found.work === "macs_left" ? "MACs" : "parameters";
  if (found.best) {
    const r = found.best;
    const parts = [`${what} ${percent(r[found.work])}`];
    if (known(r.accuracy_after)) parts.push(`accuracy ${percent(r.accuracy_after)}, the original's ${percent(r.accuracy_before)}`);
    if (known(r.top1_agreement)) parts.push(agreed(r));
    if (known(r.relative_l2)) parts.push(`relative L2 error ${digits(r.relative_l2)}`);
    const random = (r.compared_on || "").startsWith("random") ? h("small", {}, "Compared on random inputs: data of its kind may say otherwise.") : null;
    const why = found.of > 1 ? `Chosen by ${MEASURES[found.by].title} among ${found.of} settings.` : "The only setting that small.";
    const over = bestWithin(some, share + A_LITTLE).best;
    const near = over !== r ? h("small", {}, "A little over, and better: ", h("a", { href: toModel(over) }, over.setting), `, ${percent(over[found.work])}.`) : null;
    return [h("a", { class: "pick", href: toModel(r) }, r.setting), h("span", {}, `${parts.join(" · ")}. `, h("small", {}, why), random, near)];
  }
  if (found.fit) return [h("span", {}, "Nothing that small was compared with the original, so nobody knows which is best.")];
  const ruined = some.filter((r) => r.status === "degraded" && r[found.work] <= share + ROUNDED).length;
  if (ruined) return [h("span", {}, `Nothing that small can be recommended: ${plural(ruined, "setting is", "settings are")} degraded, the outputs are ruined.`)];
  const none = some.some((r) => r.status === "degraded") ? "Every setting of this model that was finished is degraded." : "No setting of this model was finished.";
  if (!found.smallest) return [h("span", {}, none)];
  const least = `${found.smallest.setting}, leaves ${percent(found.smallest[found.work])} of the ${what}.`;
  return [h("span", {}, `No setting is that small; the smallest, ${least}`)];
}
