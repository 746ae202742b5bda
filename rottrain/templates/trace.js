"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const K = data.latents.length;
const $ = id => document.getElementById(id);
let at = 0;  // the latent that is looked at

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) key in made ? made[key] = value : made.setAttribute(key, value);
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const shown = text => text === "" ? "\u2007" : text;
const fixed = (value, digits = 2) => value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "\u2212");

// Colours. A diverging scale from blue over the paper to orange, a rising one from the paper to blue.
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const channels = hex => [1, 3, 5].map(place => parseInt(hex.slice(place, place + 2), 16));
const mixed = (from, to, share) => `rgb(${channels(css(from)).map((low, i) => Math.round(low + (channels(css(to))[i] - low) * share)).join(",")})`;
const scale = (from, to) => { const steps = Array.from({ length: 65 }, (_, i) => mixed(from, to, i / 64)); return share => steps[Math.round(64 * Math.min(1, Math.max(0, share)))]; };
const diverging = () => { const low = scale("--panel", "--accent"), high = scale("--panel", "--warm"); return value => value < 0 ? low(-value) : high(value); };
const rising = () => scale("--panel", "--accent");

// The answer at each budget.
function spend(index) {
  const budget = data.budgets[index];
  $("spent").value = index;
  $("count").textContent = budget.budget;
  $("then").textContent = budget.answer || "(none)";
  $("then").className = budget.correct === null ? "" : budget.correct ? "good" : "bad";
  $("spent").setAttribute("aria-valuetext", `${budget.budget} latents: ${budget.answer || "none"}`);
  [...$("ticks").children].forEach((tick, i) => tick.classList.toggle("at", i === index));
}
for (const budget of data.budgets) {
  const right = budget.correct ?? budget.answer === data.answer;
  $("ticks").append(element("i", { className: right ? "right" : "wrong", title: `${budget.budget} latents: ${budget.answer || "(none)"}` }));
}
$("spent").addEventListener("input", () => spend(Number($("spent").value)));

// The table of latents: a column each.
function columns() {
  const table = element("div", { className: "columns" }), rows = [];
  const row = (name, kind, cell) => rows.push({ name, kind, cell });
  const attention = answerAttention();
  const strongest = Math.max(...attention, 1e-9);
  row("latent", "head", k => element("button", { className: "head", type: "button", tabIndex: -1, textContent: k + 1, ariaLabel: `latent ${k + 1}` }));
  row("nearest picture", "picture", k => element("div", { className: "picture" }, data.latents[k].nearest[0] ? element("img", { src: data.latents[k].nearest[0].picture, alt: "" }) : null));
  row("it shows", "", k => text(data.latents[k].nearest[0]?.characters ?? "", k));
  row("cosine", "bar", k => bar(data.latents[k].nearest[0]?.cosine ?? 0, "--accent"));
  if (data.latents[0].glyphs) {
    row("glyph probe", "rule", k => read(k));
    row("certain", "bar", k => bar(data.latents[k].glyphs.confidence, "--accent"));
  }
  if (data.strip) {
    row("true picture", "picture rule", k => truePicture(k));
    row("should show", "", k => element("div", { textContent: shown(data.latents[k].should_show ?? "") }));
  }
  row("attended to", "bar rule", k => bar(attention[k] / strongest, "--warm"));
  if (data.latents[0].last !== null) row("is the last", "bar", k => bar(data.latents[k].last, "--soft"));
  const longest = Math.max(...data.latents.flatMap(each => [each.nearest[0]?.characters, each.glyphs?.text, each.should_show].map(words => [...words ?? ""].length)));
  table.style.setProperty("--longest", longest);
  table.style.gridTemplateRows = `repeat(${rows.length}, auto)`;
  for (const { name, kind } of rows) table.append(element("div", { className: `name ${kind.replace("head", "").replace("bar", "")}`, textContent: name }));
  for (let k = 0; k < K; k++) {
    for (const { kind, cell } of rows) {
      const made = cell(k);
      if (kind) made.classList.add(...kind.split(" "));
      made.dataset.k = k;
      if (k >= data.told) made.classList.add("blank");
      table.append(made);
    }
  }
  table.addEventListener("click", event => { const cell = event.target.closest("[data-k]"); if (cell) look(Number(cell.dataset.k)); });
  $("columns").replaceChildren(table);
}
function text(characters, k) {
  const should = data.latents[k].should_show;
  return element("div", { textContent: shown(characters), className: should !== null && should.trim() !== characters.trim() ? "off" : "" });
}
function read(k) {
  const { glyphs, unsure, unnamed } = data.latents[k], made = text(glyphs.text, k);
  made.title = `read with a probability of ${fixed(glyphs.confidence)}${unnamed ? "; no name, fed back as predicted" : ""}`;
  if (unsure) made.classList.add("unsure");
  return made;
}
function bar(share, colour) {
  const height = 100 * Math.min(1, Math.max(0, share));
  return element("div", { title: fixed(share) }, svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none" }, svg("rect", { x: 12, width: 76, y: 100 - height, height, fill: `var(${colour})`, opacity: 0.75 })));
}
function truePicture(k) {
  const box = element("div");
  if (k >= data.strip_latents) return box;
  const picture = svg("svg", { viewBox: "0 0 100 100", width: "100%", height: "100%" });
  picture.append(svg("image", { href: data.strip, x: -100 * k, y: 0, width: 100 * data.strip_latents, height: 100, preserveAspectRatio: "none" }));
  box.append(picture);
  return box;
}
function answerAttention() {
  const { latents } = data.attention, layers = latents.length, tokens = latents[0]?.length ?? 0;
  return Array.from({ length: K }, (_, k) => latents.reduce((sum, layer) => sum + layer.reduce((inner, token) => inner + token[k], 0), 0) / Math.max(1, layers * tokens));
}

function look(k) {
  at = Math.max(0, Math.min(K - 1, k));
  document.querySelectorAll("#columns .at").forEach(cell => cell.classList.remove("at"));
  const column = document.querySelectorAll(`#columns [data-k="${at}"]`);
  column.forEach(cell => cell.classList.add("at"));
  const scroll = $("columns"), box = scroll.getBoundingClientRect(), head = column[0].getBoundingClientRect();
  const hidden = box.left + scroll.querySelector(".name").offsetWidth - head.left;
  if (hidden > 0) scroll.scrollLeft -= hidden;
  else if (head.right > box.right) scroll.scrollLeft += head.right - box.right;
  const latent = data.latents[at], facts = element("dl");
  const fact = (name, value, mono) => value !== undefined && value !== null && facts.append(element("dt", { textContent: name }), element("dd", { textContent: value, className: mono ? "mono" : "" }));
  fact("latent", `${at + 1} of ${K}`);
  fact("should show", latent.should_show === null ? null : shown(latent.should_show), true);
  fact("glyph probe", latent.glyphs ? `${shown(latent.glyphs.text)}  ${fixed(latent.glyphs.confidence)}` : null, true);
  fact("cosine to the true one", latent.to_truth === null ? null : fixed(latent.to_truth));
  fact("norm", fixed(data.portrait.sizes.norm[at]));
  fact("is the last", latent.last === null ? null : fixed(latent.last));
  $("detail").replaceChildren(facts, ...latent.nearest.map(near => element("figure", {}, element("img", { src: near.picture, alt: "" }),
    element("figcaption", {}, element("b", { textContent: shown(near.characters) }), ` ${fixed(near.cosine)}`, element("br"), `${near.id}, latent ${near.position + 1}`))));
  marks.forEach(mark => mark(at));
}
$("columns").addEventListener("keydown", event => {
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: K - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  look(to);
});

// Figures. Each is one SVG, and marks the latent that is looked at.
let marks = [];
function figure(title, note, drawing, { wide = false, controls = [] } = {}) {
  const save = element("button", { type: "button", className: "save", textContent: "SVG", title: "save this figure", ariaLabel: `save ${title} as SVG` });
  save.addEventListener("click", () => download(title, drawing));
  $("plots").append(element("section", { className: wide ? "panel plot wide" : "panel plot" }, element("header", {}, element("h3", { textContent: title }), ...controls, save), drawing, element("p", { textContent: note })));
}
function download(title, drawing) {
  const copy = drawing.cloneNode(true), from = [drawing, ...drawing.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
  const kept = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size"];
  from.forEach((original, i) => { const style = getComputedStyle(original); kept.forEach(name => to[i].setAttribute(name, style.getPropertyValue(name))); to[i].removeAttribute("class"); });
  copy.querySelectorAll(".hit").forEach(hit => hit.remove());
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const link = element("a", { href: URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" })), download: `${title.toLowerCase().replace(/[^a-z]+/g, "-")}.svg` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
const label = (x, y, words, anchor = "middle", more = {}) => { const made = svg("text", { x, y, "text-anchor": anchor, ...more }); made.textContent = words; return made; };
const every = count => Math.max(1, Math.ceil(count / 12));

const wide = () => Math.max(330, Math.min(1000, $("plots").clientWidth - 40));

// A matrix as a picture of one pixel a value, so that a large one stays small.
function matrix(values, colour, x, y, width, height) {
  const canvas = element("canvas", { width: values[0]?.length || 1, height: values.length || 1 }), pen = canvas.getContext("2d");
  values.forEach((line, row) => line.forEach((value, column) => { pen.fillStyle = colour(value); pen.fillRect(column, row, 1, 1); }));
  const group = svg("g"), picture = svg("image", { href: canvas.toDataURL(), x, y, width, height, preserveAspectRatio: "none" });
  picture.style.imageRendering = "pixelated";
  group.append(picture, svg("rect", { class: "axis", x, y, width, height }));
  return group;
}
function legend(colour, from, to, low, high, x, y) {
  const group = svg("g");
  for (let i = 0; i < 40; i++) group.append(svg("rect", { x: x + 2 * i, y, width: 2.2, height: 8, fill: colour(from + (to - from) * i / 39) }));
  group.append(label(x - 4, y + 8, low, "end"), label(x + 84, y + 8, high, "start"));
  return group;
}
function marking(drawing, shape, place) {
  const mark = svg(shape, { class: "mark" });
  drawing.append(mark);
  marks.push(k => { for (const [name, value] of Object.entries(place(k))) mark.setAttribute(name, value); });
}
function picking(drawing, x, y, width, height, latentAt) {
  const hit = svg("rect", { class: "hit", x, y, width, height });
  hit.addEventListener("click", event => {
    const box = drawing.getBoundingClientRect(), view = drawing.viewBox.baseVal;
    look(latentAt((event.clientX - box.left) * view.width / box.width - x, (event.clientY - box.top) * view.height / box.height - y));
  });
  drawing.append(hit);
}

function drawHeat() {
  const W = wide(), H = 14 * Math.min(K, 24) + 40, left = 34, top = 8, width = W - left - 8, height = H - 40, colour = diverging();
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "heat map of the latents" });
  drawing.append(matrix(data.portrait.heat, value => colour(value / 3), left, top, width, height));
  for (let k = 0; k < K; k += every(K)) drawing.append(label(left - 6, top + (k + .5) * height / K + 4, k + 1, "end"));
  const step = data.portrait.heat_step;
  drawing.append(label(left, H - 12, "1", "start"), label(W - 8, H - 12, (data.portrait.heat[0].length - 1) * step + 1, "end"), legend(value => colour(value / 3), -3, 3, "\u22123 sd", "+3 sd", W / 2 - 40, H - 20));
  marking(drawing, "rect", k => ({ x: left, y: top + k * height / K, width, height: height / K }));
  picking(drawing, left, top, width, height, (x, y) => Math.floor(y / height * K));
  figure("Heat map", `A row for each latent, a column for ${step > 1 ? `every ${step}th dimension` : "each dimension"}, in standard deviations of the targets from their mean.`, drawing, { wide: true });
}

function drawSimilarity() {
  const S = 360, left = 30, top = 8, side = S - left - 8, colour = diverging();
  const drawing = svg("svg", { viewBox: `0 0 ${S} ${S + 18}`, role: "img", "aria-label": "similarity of every two latents" });
  drawing.append(matrix(data.portrait.similarity, colour, left, top, side, side));
  for (let k = 0; k < K; k += every(K)) drawing.append(label(left - 6, top + (k + .5) * side / K + 4, k + 1, "end"), label(left + (k + .5) * side / K, top + side + 13, k + 1));
  drawing.append(legend(colour, -1, 1, "\u22121", "+1", left + side / 2 - 40, S + 4));
  marking(drawing, "rect", k => ({ x: left, y: top + k * side / K, width: side, height: side / K }));
  marking(drawing, "rect", k => ({ x: left + k * side / K, y: top, width: side / K, height: side }));
  picking(drawing, left, top, side, side, (x, y) => Math.floor(y / side * K));
  figure("Similarity", "Cosine of every two latents, after the mean of the targets is taken from both.", drawing);
}

function drawPath() {
  const W = 420, H = 360, pad = 26, { context, generated, true: truth, explained } = data.path;
  const all = [...context, ...generated, ...truth], xs = all.map(point => point[0]), ys = all.map(point => point[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const X = x => pad + (x - x0) / (x1 - x0 || 1) * (W - 2 * pad), Y = y => H - pad - (y - y0) / (y1 - y0 || 1) * (H - 2 * pad);
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "path of the latents in a plane" });
  drawing.append(svg("rect", { class: "axis", x: pad / 2, y: pad / 2, width: W - pad, height: H - pad }));
  for (const [x, y] of context) drawing.append(svg("circle", { class: "context", cx: X(x), cy: Y(y), r: 1.8 }));
  const line = (points, kind, dot) => {
    if (points.length) drawing.append(svg("polyline", { class: kind, points: points.map(([x, y]) => `${X(x)},${Y(y)}`).join(" ") }));
    points.forEach(([x, y]) => drawing.append(svg("circle", { class: dot, cx: X(x), cy: Y(y), r: 2.4 })));
  };
  line(truth, "true", "truedot");
  line(generated, "own", "dot");
  const [x, y] = generated[0];
  drawing.append(label(X(x) + 6, Y(y) - 6, "1", "start", { "font-weight": 700 }));
  marking(drawing, "circle", k => ({ cx: X(generated[k][0]), cy: Y(generated[k][1]), r: 6 }));
  generated.forEach(([x, y], k) => { const hit = svg("circle", { class: "hit", cx: X(x), cy: Y(y), r: 9 }); hit.addEventListener("click", () => look(k)); drawing.append(hit); });
  const shares = explained.map(share => `${Math.round(100 * share)}%`).join(" and ");
  figure("Path", `The latents in the plane in which those of other rows (grey) spread most: ${shares} of their variance.${truth.length ? " Dashed: the reference's." : ""}`, drawing);
}

function drawSizes() {
  const W = 420, H = 400, left = 44, width = W - left - 10, drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "norm, mean and deviation of the latents by position" });
  const X = k => left + (K < 2 ? .5 : k / (K - 1)) * width, each = 102, gap = 24, first = 18;
  [["norm", "norm"], ["mean", "mean"], ["deviation", "standard deviation"]].forEach(([name, words], panel) => {
    const own = data.portrait.sizes[name], truth = data.true_sizes?.[name].slice(0, K) ?? [], top = first + panel * (each + gap);
    const [low, high] = [Math.min(...own, ...truth), Math.max(...own, ...truth)], Y = value => top + each - 8 - (value - low) / (high - low || 1) * (each - 16);
    drawing.append(svg("rect", { class: "axis", x: left, y: top, width, height: each }), label(left, top - 5, words, "start"), label(left - 5, Y(high) + 4, fixed(high), "end"), label(left - 5, Y(low) + 4, fixed(low), "end"));
    const line = (values, kind, dot) => { drawing.append(svg("polyline", { class: kind, points: values.map((value, k) => `${X(k)},${Y(value)}`).join(" ") })); values.forEach((value, k) => drawing.append(svg("circle", { class: dot, cx: X(k), cy: Y(value), r: 2 }))); };
    if (truth.length) line(truth, "true", "truedot");
    line(own, "own", "dot");
  });
  const bottom = first + 3 * each + 2 * gap;
  if (data.settled < K) drawing.append(svg("line", { class: "settled", x1: X(data.settled - 1), x2: X(data.settled - 1), y1: first, y2: bottom }));
  for (let k = 0; k < K; k += every(K)) drawing.append(label(X(k), bottom + 14, k + 1));
  marking(drawing, "line", k => ({ x1: X(k), x2: X(k), y1: first, y2: bottom }));
  picking(drawing, left, first, width, bottom - first, x => Math.round(x / width * (K - 1)));
  const still = data.settled < K ? `From latent ${data.settled} on (dotted) each is nearly the one before: cosine 0.99 or more.` : "The latents keep changing to the end: none is nearly the one before (cosine 0.99).";
  figure("Size by position", `Over the dimensions of each latent.${data.true_sizes ? " Dashed: the reference's." : ""} ${still}`, drawing);
}

let layer = -1;  // a mean over all
function drawAttention() {
  const { tokens, latents, question, rest } = data.attention, layers = latents.length;
  if (!layers) return;
  const picked = values => layer < 0 ? values[0].map((_, token) => averaged(values.map(each => each[token]))) : values[layer];
  const averaged = lines => Array.isArray(lines[0]) ? lines[0].map((_, i) => lines.reduce((sum, line) => sum + line[i], 0) / lines.length) : lines.reduce((sum, value) => sum + value, 0) / lines.length;
  const weights = picked(latents), strongest = Math.max(...weights.flat(), 1e-9), colour = rising();
  const W = wide(), left = 60, right = 150, top = 20, row = 20, height = row * tokens.length, H = top + height + 24, width = W - left - right;
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "the answer's attention over the latents" });
  drawing.append(matrix(weights, value => colour(value / strongest), left, top, width, height));
  tokens.forEach((token, i) => drawing.append(label(left - 8, top + (i + .5) * row + 4, i === tokens.length - 1 && !token ? "end" : token.replace(/ /g, "\u2423"), "end")));
  for (let k = 0; k < K; k += every(K)) drawing.append(label(left + (k + .5) * width / K, top + height + 14, k + 1));
  const share = (values, x, words) => { drawing.append(label(x, 13, words)); picked(values).forEach((value, i) => drawing.append(label(x, top + (i + .5) * row + 4, `${Math.round(100 * value)}%`))); };
  share(latents.map(each => each.map(token => token.reduce((sum, value) => sum + value, 0))), W - right + 26, "latents");
  share(question, W - right + 78, "question");
  share(rest, W - right + 126, "answer");
  marking(drawing, "rect", k => ({ x: left + k * width / K, y: top, width: width / K, height }));
  picking(drawing, left, top, width, height, x => Math.floor(x / width * K));
  const select = element("select", { ariaLabel: "layer" }, element("option", { value: -1, textContent: `mean of ${layers} layers` }), ...latents.map((_, i) => element("option", { value: i, textContent: `layer ${i + 1}` })));
  select.value = layer;
  select.addEventListener("change", () => { layer = Number(select.value); figures(); $("plots").querySelector("select").focus(); });
  figure("What the answer attends to", "Attention of each position that says a token of the reply, in one pass with eager attention; a mean over heads. Colours go up to the strongest weight shown. On the right, shares of all attention.", drawing, { wide: true, controls: [select] });
}

function figures() {
  marks = [];
  $("plots").replaceChildren();
  drawAttention(); drawHeat(); drawSimilarity(); drawPath(); drawSizes();
  look(at);
}

// A link may carry a latent and a budget: #latent=5&budget=3
function follow() {
  const asked = new URLSearchParams(location.hash.slice(1)), budget = Number(asked.get("budget") ?? NaN);
  const index = data.budgets.findIndex(each => each.budget === budget);
  spend(index < 0 ? data.budgets.length - 1 : index);
  look(Number(asked.get("latent") ?? 1) - 1 || 0);
}
columns();
figures();
follow();
addEventListener("hashchange", follow);
addEventListener("themechange", figures);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", figures);
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; figures(); } });
