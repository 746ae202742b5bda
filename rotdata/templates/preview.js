const factor = Number(document.getElementById("rows").dataset.factor);
let size = factor;  // pixels of a latent, as it is shown
const rows = [...document.querySelectorAll(".row")];
const searched = [".head b", ".question", ".cot", ".answer span + span"];
const texts = new Map(rows.map(row => [row, searched.map(part => row.querySelector(part).textContent).join("\n").toLowerCase()]));

function show(row, k) {
  const strip = row.querySelector(".strip"), at = strip.querySelector(".at"), cot = row.querySelector(".cot"), said = row.querySelector(".said");
  const characters = row.characters ??= Array.from(cot.textContent), spans = row.spans ??= JSON.parse(row.dataset.spans);
  if (!Number.isInteger(k) || k < 0 || k >= spans.length - 1) {
    at.hidden = true; cot.replaceChildren(characters.join("")); said.textContent = ""; row.latent = null;
    return;
  }
  const columns = Math.round(strip.querySelector("img").width / size), [start, stop] = [spans[k], spans[k + 1]];
  at.hidden = false; at.style.left = k % columns * size + "px"; at.style.top = Math.floor(k / columns) * size + "px";
  const mark = document.createElement("mark"); mark.textContent = characters.slice(start, stop).join("");
  cot.replaceChildren(characters.slice(0, start).join(""), mark, characters.slice(stop).join(""));
  if (mark.offsetTop < cot.scrollTop || mark.offsetTop + mark.offsetHeight > cot.scrollTop + cot.clientHeight) cot.scrollTop = mark.offsetTop - cot.clientHeight / 2;
  const code = document.createElement("code"); code.textContent = mark.textContent || " ";
  said.replaceChildren(`latent ${k + 1} of ${spans.length - 1}: characters ${start} to ${stop}  `, code);
  row.latent = k;
}

for (const row of rows) {
  const strip = row.querySelector(".strip");
  const point = event => {
    const box = strip.getBoundingClientRect(), columns = Math.round(box.width / size);
    const k = Math.floor((event.clientY - box.top) / size) * columns + Math.floor((event.clientX - box.left) / size);
    if (k !== row.latent) show(row, k);
  };
  strip.addEventListener("pointermove", point);
  strip.addEventListener("click", point);  // a finger moves no pointer, and its tap gives focus first
  strip.addEventListener("pointerleave", () => { if (document.activeElement !== strip) show(row, null); });
  strip.addEventListener("focus", () => { if (row.latent == null) show(row, 0); });
  strip.addEventListener("blur", () => show(row, null));
  strip.addEventListener("keydown", event => {
    const columns = Math.round(strip.querySelector("img").width / size), last = JSON.parse(row.dataset.spans).length - 2, now = row.latent ?? 0;
    const to = { ArrowRight: now + 1, ArrowLeft: now - 1, ArrowDown: now + columns, ArrowUp: now - columns, Home: 0, End: last }[event.key];
    if (to === undefined || (columns > last && event.key.match(/Up|Down/))) return;
    event.preventDefault();
    show(row, Math.max(0, Math.min(last, to)));
    strip.querySelector(".at").scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

const zoom = document.getElementById("zoom");
function enlarge() {
  size = factor * Number(zoom.value);
  document.documentElement.style.setProperty("--latent", `${size}px`);
  for (const row of rows) {
    const picture = row.querySelector(".strip img");
    picture.width = Number(picture.dataset.width) * zoom.value; picture.height = Number(picture.dataset.height) * zoom.value;
    if (row.latent != null) show(row, row.latent);
  }
}
zoom.addEventListener("change", enlarge);

const q = document.getElementById("q"), order = document.getElementById("order");
function filter() {
  const words = q.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const row of rows) { row.hidden = !words.every(word => texts.get(row).includes(word)); found += !row.hidden; }
  document.getElementById("found").textContent = found;
  document.getElementById("none").hidden = found > 0;
}
function sort() {
  const sign = { long: -1, short: 1 }[order.value] ?? 0;
  document.getElementById("rows").append(...rows.slice().sort((a, b) => sign * (a.dataset.k - b.dataset.k)));
}
q.addEventListener("input", filter);
order.addEventListener("change", sort);

// A link may carry a search, a size and a latent: #q=clips&order=long&zoom=2&row=3&latent=12
function follow() {
  const asked = new URLSearchParams(location.hash.slice(1));
  q.value = asked.get("q") ?? ""; filter();
  order.value = asked.get("order") ?? ""; sort();
  if ([...zoom.options].some(each => each.value === asked.get("zoom"))) zoom.value = asked.get("zoom");
  enlarge();
  const row = rows[asked.get("row")];
  if (!row) return;
  show(row, Number(asked.get("latent") ?? 1) - 1);
  const at = row.querySelector(".at"), scroll = row.querySelector(".scroll");
  scroll.scrollLeft = at.offsetLeft - scroll.clientWidth / 2;
  row.scrollIntoView();
}
addEventListener("hashchange", follow);
if (location.hash) follow(); else enlarge();
