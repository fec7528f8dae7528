// One person's ratings. What is typed or chosen is kept in the browser at once, under the study's name, and read back when
// the page is loaded anew.

const $ = id => document.getElementById(id);
const ANSWERS = { y: "yes", m: "maybe", n: "no" };
let study = null, place = 0, ratings = {};

function stored() { return `gsae-study-${study.study}`; }

function keep() {
  try {
    localStorage.setItem(stored(), JSON.stringify({ place, ratings }));
  } catch (error) {
    warn(`This browser keeps nothing (${error.name}): export your ratings before you close or reload the page.`);
  }
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(stored()) || "null");
    if (kept) ({ place, ratings } = kept);
  } catch (error) {
    warn(`What this browser had kept cannot be read (${error.name}).`);
  }
}

function warn(text) {
  $("warning").textContent = text;
  $("warning").hidden = false;
}

function current() { return ratings[String(place + 1)] ||= { explanation: "", rating: null }; }
function rated() { return Object.values(ratings).filter(each => each.rating).length; }

function draw() {
  const size = study.size, fired = study.fired[place], tokens = study.tokens[place], K = study.shape.strongest_row[1];
  $("item").replaceChildren(
    element("h2", { text: `Feature ${place + 1} of ${study.items}` }),
    element("p", { class: "under", text: fired ? `Fires on ${short(100 * fired / tokens)} % of ${tokens.toLocaleString("en")} tokens. Activations are shares of its largest.` : "It never fired on this text." }),
    element("h3", { text: "Strongest activations" }),
    exampleList(study, study, "strongest", place * K, K, size),
    element("h3", { text: "Drawn from all of its firings, by activation" }),
    intervals(study, study, place, size),
    element("div", { class: "columns" },
      element("section", { class: "double" }, element("h3", { text: "Activations where it fires" }), histogram(study, place, ""),
        element("p", { class: "under" }, element("small", { text: "Number of tokens, logarithmic, by activation." }))),
      element("section", {}, element("h3", { text: "Promoted tokens" }), tokenTable(study, study, "promoted", place, false)),
      element("section", {}, element("h3", { text: "Suppressed tokens" }), tokenTable(study, study, "suppressed", place, false))));
  const answer = current();
  $("explanation").value = answer.explanation;
  for (const choice of document.getElementsByName("rating")) choice.checked = choice.value === answer.rating;
  progress();
}

function progress() {
  $("progress").textContent = `: ${rated()} of ${study.items} rated`;
  $("back").disabled = place === 0;
  $("next").disabled = place === study.items - 1;
  $("unrated").disabled = rated() === study.items;
}

function go(to) {
  if (to < 0 || to >= study.items || to === place) return;
  place = to;
  keep();
  draw();
  scrollTo(0, 0);
}

function rate(value) {
  current().rating = value;
  for (const choice of document.getElementsByName("rating")) choice.checked = choice.value === value;
  keep();
  progress();
}

function nextUnrated() {
  for (let step = 1; step <= study.items; step++) {
    const to = (place + step) % study.items;
    if (!(ratings[String(to + 1)] || {}).rating) return go(to);
  }
}

function exported() {
  return JSON.stringify({ study: study.study, rater: study.rater, items: study.items, ratings }, null, 2);
}

function download() {
  const link = element("a", { href: URL.createObjectURL(new Blob([exported()], { type: "application/json" })), download: `${study.rater}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function start() {
  const data = values("study");
  study = { ...data, ...await arraysOf(data.packed), packed: null };
  recall();
  $("rater").textContent = study.rater;
  $("explanation").addEventListener("input", () => { current().explanation = $("explanation").value; keep(); });
  for (const choice of document.getElementsByName("rating")) choice.addEventListener("change", () => rate(choice.value));
  $("back").addEventListener("click", () => go(place - 1));
  $("next").addEventListener("click", () => go(place + 1));
  $("unrated").addEventListener("click", nextUnrated);
  $("export").addEventListener("click", download);
  $("answer").addEventListener("submit", event => event.preventDefault());
  addEventListener("keydown", event => {
    if (event.key === "Escape") return document.activeElement.blur();
    if (event.target.matches("textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (ANSWERS[event.key]) { event.preventDefault(); rate(ANSWERS[event.key]); }
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") { event.preventDefault(); go(place + (event.key === "ArrowRight" ? 1 : -1)); }
    else if (event.key === "e") { event.preventDefault(); $("explanation").focus(); }
  });
  $("help").open = rated() === 0;
  draw();
  document.documentElement.dataset.ready = Math.round(performance.now());
}

start().catch(error => warn(`This page cannot be shown here: ${error.message}`));
