"use strict";
// What the pages of features share: arrays out of the page, and examples, histograms and tokens as elements.
// Text reaches the page through textContent alone: nothing of it is ever read as markup.

const NONE = 0xffffffff;
const TYPES = { u1: Uint8Array, u4: Uint32Array, f4: Float32Array };

function values(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

async function arraysOf(packed) {
  const raw = atob(packed.blob), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const arrays = { shape: {} };
  for (const [name, [type, offset, shape]] of Object.entries(packed.arrays)) {
    arrays[name] = new TYPES[type](buffer, offset, shape.reduce((a, b) => a * b, 1));
    arrays.shape[name] = shape;
  }
  return arrays;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value; else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

// Three significant digits; the unit of what is counted stands beside it.
function short(number) {
  if (!Number.isFinite(number)) return "–";
  if (number !== 0 && (Math.abs(number) < 1e-3 || Math.abs(number) >= 1e5)) return number.toExponential(2);
  return String(Number(number.toPrecision(3)));
}

// Signs for what cannot be seen; what would turn the direction of the text around is shown as a dot.
function shown(text) {
  if (text === "") return "·";
  return text.replace(/\r\n|\n/g, "⏎").replace(/\t/g, "⇥")
    .replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, "·");
}

function token(text, attributes = {}) {
  const sign = shown(text);
  if (sign !== text) attributes = { ...attributes, class: `${attributes.class || ""} mark`.trim() };
  return element("span", { ...attributes, text: sign });
}

// One example: its tokens, shaded by how strongly the feature fires on each; the one it is about is underlined.
function exampleText(pool, arrays, kind, place, size) {
  const row = arrays[`${kind}_row`][place], position = arrays[`${kind}_position`][place];
  const value = arrays[`${kind}_value`][place], window = size.before + 1 + size.after;
  const levels = arrays[`${kind}_window`].subarray(place * window, (place + 1) * window);
  const scale = Math.abs(value) / Math.max(levels[size.before], 1);
  const line = element("div", { class: "text" });
  for (let w = 0; w < window; w++) {
    const t = position - size.before + w;
    if (t < 0 || t >= pool.length) continue;
    const number = pool.rows[row * pool.length + t], here = w === size.before;
    if (number === NONE) continue;
    const text = pool.strings[number];
    if (!levels[w] && !here) { line.append(token(text)); continue; }
    const span = token(text, { class: here ? "on here" : "on", title: here ? short(value) : `about ${short(levels[w] * scale)}` });
    span.style.setProperty("--level", (levels[w] / 255).toFixed(3));
    line.append(span);
  }
  return line;
}

function exampleList(pool, arrays, kind, first, count, size) {
  const list = element("ol", { class: "examples" });
  for (let place = first; place < first + count; place++) {
    if (arrays[`${kind}_row`][place] === NONE) continue;
    const document_ = pool.documents ? arrays[`${kind}_document`][place] : NONE;
    list.append(element("li", {},
      element("span", { class: "value", text: short(arrays[`${kind}_value`][place]) }),
      exampleText(pool, arrays, kind, place, size),
      document_ !== NONE
        ? element("span", { class: "from", text: `${pool.documents[document_]}, token ${arrays[`${kind}_position`][place]} of its row` })
        : null));
  }
  return list;
}

const INTERVALS = 5; // of equal width, from 0 to a feature's largest activation

function intervals(pool, arrays, feature, size) {
  const all = arrays.shape.drawn_row[1], each = all / INTERVALS, made = element("div"), largest = arrays.max[feature];
  for (let i = 0; i < INTERVALS; i++) {
    const list = exampleList(pool, arrays, "drawn", feature * all + i * each, each, size);
    const [low, high] = [INTERVALS - 1 - i, INTERVALS - i].map(end => short(end / INTERVALS * largest));
    const none = list.children.length ? null : element("p", { class: "under" }, element("small", { text: "None was drawn." }));
    made.append(element("h4", { text: `Activations from ${low} to ${high}` }), none || list);
  }
  return made;
}

function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Firings by activation; heights are logarithmic, so that the few strong ones can be seen beside the many weak ones.
function histogram(arrays, feature, unit) {
  const bins = arrays.shape.histogram[1], counts = arrays.histogram.subarray(feature * bins, (feature + 1) * bins);
  const width = arrays.bin_width[feature], used = Math.min(bins, Math.ceil(arrays.max[feature] / width) || 1);
  const most = Math.max(1, ...counts), [W, H, left, base] = [400, 150, 46, 126];
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "histogram", role: "img" });
  drawing.append(svg("title", {}, `Histogram of activations, up to ${short(arrays.max[feature])}`));
  const height = count => count ? 6 + (base - 20) * Math.log(count) / Math.max(Math.log(most), 1e-9) : 0;
  const step = (W - left - 6) / used;
  for (let h = 0; h < used; h++) {
    if (!counts[h]) continue;
    const bar = svg("rect", { x: left + h * step, y: base - height(counts[h]), width: Math.max(step - 1, .5), height: height(counts[h]) });
    bar.append(svg("title", {}, `${counts[h].toLocaleString("en")} from ${short(h * width)} to ${short((h + 1) * width)}`));
    drawing.append(bar);
  }
  drawing.append(svg("line", { x1: left, x2: W - 6, y1: base, y2: base }));
  drawing.append(svg("text", { x: left, y: base + 16 }, "0"));
  drawing.append(svg("text", { x: W - 6, y: base + 16, "text-anchor": "end" }, `${short(used * width)}${unit}`));
  drawing.append(svg("text", { x: left - 6, y: base - height(most) + 9, "text-anchor": "end" }, most.toLocaleString("en")));
  drawing.append(svg("text", { x: left - 6, y: base, "text-anchor": "end" }, "1"));
  return drawing;
}

function tokenTable(pool, arrays, kind, feature, withNumbers) {
  const count = arrays.shape[kind][1], body = element("tbody");
  for (let i = feature * count; i < (feature + 1) * count; i++) {
    body.append(element("tr", {},
      element("td", {}, element("code", {}, token(pool.strings[arrays[kind][i]]))),
      withNumbers ? element("td", { text: short(arrays[`${kind}_logit`][i]) }) : null));
  }
  return element("table", { class: "tokens" }, body);
}
