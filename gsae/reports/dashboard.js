// The page of a run's features. Everything about one autoencoder is unpacked when it is first looked at; the list holds
// elements for the rows that can be seen, however many features there are.

const ROW = 52; // height of a row, as in dashboard.css
const ORDERS = {
  number: ["number", (p, f) => p.features[f], () => ""],
  density: ["density, most frequent first", (p, f) => -p.fired[f], (p, f) => percent(p.fired[f] / p.tokens)],
  rare: ["density, rarest first", (p, f) => p.fired[f] || Infinity, (p, f) => percent(p.fired[f] / p.tokens)],
  max: ["largest activation", (p, f) => -p.max[f], (p, f) => short(p.max[f])],
  norm: ["decoder norm, largest first", (p, f) => -p.norm[f], (p, f) => short(p.norm[f])],
  small: ["decoder norm, smallest first", (p, f) => p.norm[f], (p, f) => short(p.norm[f])],
  cosine: ["encoder-decoder cosine, smallest first", (p, f) => p.cosine[f], (p, f) => short(p.cosine[f])],
  l0: ["features that fire with it, most first", (p, f) => -(p.l0_with[f] || 0), (p, f) => short(p.l0_with[f])],
};
const MEASURES = { // what can be searched by: density > 1 %, norm < 0.9
  density: (p, f) => p.fired[f] / p.tokens, max: (p, f) => p.max[f], norm: (p, f) => p.norm[f],
  cosine: (p, f) => p.cosine[f], l0: (p, f) => p.l0_with[f],
};
const $ = id => document.getElementById(id);
const state = { pool: null, points: [], loaded: new Map(), point: null, order: [], chosen: -1 };

function percent(share) { return share === 0 ? "never" : `${short(100 * share)} %`; }

async function load(index) {
  if (!state.loaded.has(index)) {
    const about = values(`point-${index}`);
    state.loaded.set(index, { ...about, ...await arraysOf(about.packed), packed: null });
  }
  return state.loaded.get(index);
}

// Which features match: by number, by a measure and a bound, or because a token on which an example fires, or a promoted one, holds the text.
function matching(point, query) {
  const count = point.features.length, found = new Uint8Array(count).fill(1);
  if (query === "") return found;
  if (/^#?\d+$/.test(query)) return found.map((_, f) => point.features[f] === Number(query.replace("#", "")));
  const bound = /^(\w+)\s*([<>])\s*(-?[\d.]+(?:e-?\d+)?)\s*(%?)$/i.exec(query), measure = bound && MEASURES[bound[1].toLowerCase()];
  if (measure) {
    const limit = Number(bound[3]) / (bound[4] ? 100 : 1);
    return found.map((_, f) => bound[2] === "<" ? measure(point, f) < limit : measure(point, f) > limit);
  }
  const wanted = query.toLowerCase();
  const holds = Uint8Array.from(state.pool.strings, text => text.toLowerCase().includes(wanted) ? 1 : 0);
  const window = point.size.before + 1 + point.size.after, K = point.shape.strongest_row[1], M = point.shape.promoted[1];
  return found.map((_, f) => {
    for (let i = f * M; i < (f + 1) * M; i++) if (holds[point.promoted[i]]) return 1;
    for (let k = f * K; k < (f + 1) * K; k++) {
      if (point.strongest_row[k] === NONE) break;
      const start = point.strongest_row[k] * state.pool.length + point.strongest_position[k] - point.size.before;
      for (let w = 0; w < window; w++) {
        if (point.strongest_window[k * window + w] && holds[state.pool.rows[start + w]]) return 1;
      }
    }
    return 0;
  });
}

function arrange() {
  const point = state.point, [, key] = ORDERS[$("sort").value];
  const matches = matching(point, $("search").value.trim());
  const keys = Float64Array.from(point.features, (_, f) => key(point, f));
  state.order = Array.from(point.features.keys()).filter(f => matches[f]).sort((a, b) => keys[a] - keys[b] || a - b);
  const all = point.features.length.toLocaleString("en");
  const shown = state.order.length === point.features.length ? all : `${state.order.length.toLocaleString("en")} of ${all}`;
  $("count").textContent = `${shown} features` + (point.all > point.features.length ? `, drawn from ${point.all.toLocaleString("en")}` : "");
  $("length").style.height = `${state.order.length * ROW}px`;
  drawRows();
}

function drawRows() {
  const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(state.order.length, first + Math.ceil((list.clientHeight || 600) / ROW) + 8);
  $("rows").style.top = `${first * ROW}px`;
  $("rows").replaceChildren(...state.order.slice(first, last).map(row));
}

function row(f) {
  const point = state.point, [, , say] = ORDERS[$("sort").value], K = point.shape.strongest_row[1];
  const peaks = element("span", { class: "peaks" });
  for (let k = f * K; k < f * K + Math.min(K, 5); k++) {
    if (point.strongest_row[k] === NONE) break;
    const text = state.pool.strings[state.pool.rows[point.strongest_row[k] * state.pool.length + point.strongest_position[k]]];
    peaks.append(shown(text).replace(/ +/g, " "), "  ");
  }
  if (!point.fired[f]) peaks.append(element("span", { class: "key", text: "never fired" }));
  const often = element("span", { class: "often", "aria-hidden": "true" }); // from one firing to all tokens, logarithmic
  often.style.width = `${point.fired[f] ? 2 + 94 * Math.log(point.fired[f]) / Math.log(point.tokens) : 0}%`;
  const link = element("a", { href: address(point, f) }, element("span", { class: "number", text: point.features[f] }), peaks,
    element("span", { class: "key", text: say(point, f) }), often);
  if (f === state.chosen) link.setAttribute("aria-current", "true");
  return element("li", {}, link);
}

function address(point, f) { return `#${encodeURIComponent(point.name)}/${point.features[f]}`; }

function numbers(point, f) {
  const fired = point.fired[f], tokens = point.tokens.toLocaleString("en");
  const lines = [
    ["Density", percent(fired / point.tokens), `fires on ${fired.toLocaleString("en")} of ${tokens} tokens`],
    ["Largest activation", short(point.max[f]), `${short(point.mean[f])} on average where it fires`],
    ["L0 where it fires", short(point.l0_with[f]), `features at once; ${short(point.l0)} on all tokens`],
    ["Decoder norm", short(point.norm[f]), ""],
    ["Encoder-decoder cosine", short(point.cosine[f]), ""],
  ];
  return element("dl", { class: "numbers" }, ...lines.map(([name, value, more]) => element("div", {},
    element("dt", { text: name }), element("dd", { text: value }, more ? element("small", { text: more }) : null))));
}

function nearest(point, f) {
  const N = point.shape.nearest[1], body = element("tbody"), here = new Map(Array.from(point.features, (id, i) => [id, i]));
  for (let i = f * N; i < (f + 1) * N; i++) {
    const other = here.get(point.nearest[i]);
    body.append(element("tr", {},
      element("td", {}, other === undefined ? `${point.nearest[i]}` : element("a", { href: address(point, other), text: point.nearest[i] })),
      element("td", { text: short(point.nearest_cosine[i]) })));
  }
  return element("table", { class: "tokens" }, body);
}

function drawFeature(f) {
  const point = state.point, K = point.shape.strongest_row[1], fired = point.fired[f] > 0;
  const back = element("button", { class: "back", type: "button", text: "← All features" });
  back.addEventListener("click", () => { history.replaceState(null, "", "#"); document.body.classList.remove("one"); drawRows(); });
  $("feature").replaceChildren(...[
    back,
    element("h2", { text: `Feature ${point.features[f]}` }),
    element("p", { class: "under", text: `${point.name}: ${point.about}` }),
    numbers(point, f),
    element("div", { class: "columns" },
      element("section", { class: "double" }, element("h3", { text: "Activations where it fires" }),
        fired ? histogram(point, f, "") : element("p", { text: "It never fired on this text." }),
        element("p", { class: "under" }, element("small", { text: "Number of tokens, logarithmic, by the size of the activation." }))),
      element("section", {}, element("h3", { text: "Promoted tokens" }), tokenTable(state.pool, point, "promoted", f, true)),
      element("section", {}, element("h3", { text: "Suppressed tokens" }), tokenTable(state.pool, point, "suppressed", f, true)),
      element("section", {}, element("h3", { text: "Nearest decoder vectors" }), nearest(point, f))),
    element("p", { class: "under" }, element("small", { text: point.how })),
    ...(fired ? [
      element("h3", { text: "Strongest activations" }),
      exampleList(state.pool, point, "strongest", f * K, K, point.size),
      element("h3", { text: "Drawn from all of its firings, by activation" }),
      element("p", { class: "under" }, element("small", { text: `Up to ${point.drawn} firings drawn at random, the likelier the stronger, at most one in a row of text, by fifths of the range from 0 to the largest activation; up to ${point.shape.drawn_row[1] / INTERVALS} of each.` })),
      intervals(state.pool, point, f, point.size)] : []),
  ]);
  $("feature").scrollTop = 0;
}

// Shows what the address names; without a feature, the first of the list where there is room beside it.
async function follow() {
  const [name, number] = location.hash.slice(1).split("/").map(decodeURIComponent);
  const index = Math.max(0, state.points.findIndex(point => point.name === name));
  if (state.point !== state.loaded.get(index) || !state.point) {
    state.point = await load(index);
    state.chosen = -1;
    $("point").value = String(index);
    arrange();
  }
  const f = number === undefined ? -1 : state.point.features.indexOf(Number(number));
  if (number !== undefined && f < 0) {
    $("feature").replaceChildren(element("p", { class: "warn", text: `Feature ${number} of ${state.point.name} is not on this page.` }));
    document.body.classList.add("one");
    return;
  }
  state.chosen = f >= 0 ? f : (state.order.length ? state.order[0] : -1);
  document.body.classList.toggle("one", f >= 0);
  if (state.chosen >= 0) drawFeature(state.chosen);
  reveal();
  document.title = f >= 0 ? `${state.point.features[f]} · ${state.point.name}` : document.title;
}

function reveal() {
  const place = state.order.indexOf(state.chosen), list = $("list");
  if (place >= 0 && (place * ROW < list.scrollTop || (place + 1) * ROW > list.scrollTop + list.clientHeight)) {
    list.scrollTop = Math.max(0, place * ROW - list.clientHeight / 2);
  }
  drawRows();
}

function move(by) {
  const place = Math.min(Math.max(state.order.indexOf(state.chosen) + by, 0), state.order.length - 1);
  if (place >= 0) location.hash = address(state.point, state.order[place]);
}

async function start() {
  state.points = values("points");
  const text = values("text");
  state.pool = { ...text, ...await arraysOf(text.packed), packed: null };
  $("point").append(...state.points.map((point, i) => element("option", { value: i, text: point.name })));
  $("sort").append(...Object.entries(ORDERS).map(([key, [name]]) => element("option", { value: key, text: name })));
  $("sort").value = "density";
  $("point").addEventListener("change", () => { location.hash = encodeURIComponent(state.points[$("point").value].name); });
  $("sort").addEventListener("change", () => { arrange(); $("list").scrollTop = 0; drawRows(); });
  $("search").addEventListener("input", () => { arrange(); $("list").scrollTop = 0; drawRows(); });
  $("list").addEventListener("scroll", () => requestAnimationFrame(drawRows));
  addEventListener("resize", drawRows);
  addEventListener("hashchange", follow);
  addEventListener("keydown", event => {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (by && (event.key.length === 1 || $("list").contains(document.activeElement))) { event.preventDefault(); move(by); }
  });
  await follow();
  document.documentElement.dataset.ready = Math.round(performance.now()); // milliseconds until it can be used
}

start().catch(error => {
  $("feature").replaceChildren(element("p", { class: "warn", text: `This page cannot be shown here: ${error.message}` }));
});
