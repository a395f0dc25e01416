// Which view an address is, the search, and light or dark.

const main = el("main");
const THEMES = { auto: "light dark", light: "light", dark: "dark" };

function storage(action) {
  try {
    return action(window.localStorage);
  } catch {
    return null; // a page in a file may have none
  }
}

function setTheme(theme) {
  document.documentElement.style.colorScheme = THEMES[theme];
  document.documentElement.dataset.theme = theme;
  el("theme").textContent = `${{ auto: "◐", light: "☀", dark: "☾" }[theme]} ${theme}`;
  el("theme").setAttribute("aria-label", `theme: ${theme}; press for the next`);
  storage((s) => s.setItem("onnxprune-theme", theme));
}

/** The parts of the address after the #; one that was mangled on its way is no address. */
function address() {
  try {
    return location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  } catch {
    return [""];
  }
}

function show() {
  const [kind, name, at] = address();
  const alone = modelNames.length === 1 && rows.length === 1;
  const [, before] = (main.dataset.view || "/").split("/");
  let made;
  if (kind === "model") made = modelView(name, at);
  else if (kind === "why") made = whyView(name || "");
  else made = alone ? modelView(modelNames[0], "0") : overview();
  main.replaceChildren(...made);
  main.dataset.view = `${kind}/${name || ""}`;
  if (kind !== "why") el("why").value = "";
  else if (document.activeElement !== el("why")) el("why").value = name || "";
  const tabs = kind === "model" && at !== undefined && before === name ? el("tabs") : null;
  if (tabs) tabs.scrollIntoView();
  else window.scrollTo(0, 0);
}

let waiting = null;
el("why").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const asked = el("why").value.trim();
    const there = location.hash.startsWith("#/why");
    if (asked || there) history[there ? "replaceState" : "pushState"](null, "", asked ? link("why", asked) : "#/");
    if (asked || there) show();
  }, 150);
});
el("ask").addEventListener("submit", (e) => e.preventDefault());
el("theme").addEventListener("click", () => {
  const order = Object.keys(THEMES);
  setTheme(order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length]);
});
document.addEventListener("keydown", (e) => {
  if (e.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) {
    e.preventDefault();
    el("why").focus();
  }
});
window.addEventListener("hashchange", show);
const stored = storage((s) => s.getItem("onnxprune-theme"));
setTheme(THEMES[stored] ? stored : "auto");
show();
