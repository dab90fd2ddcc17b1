"use strict";
document.documentElement.classList.add("js");
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Sorting: rows without a value stay last, and those without a result below them. A table with
// several bodies has one for each row and what belongs to it, and they move as one.
function compareCells(a, b) {
  const [x, y] = [a.dataset.sort, b.dataset.sort];
  const [m, n] = [Number(x), Number(y)];
  return Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y, undefined, { numeric: true }) : m - n;
}

function sortBy(header) {
  const table = header.closest("table");
  const grouped = table.classList.contains("board");
  const now = header.getAttribute("aria-sort");
  const next = now === null ? header.dataset.first : now === "ascending" ? "descending" : "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const cell = (item) => (grouped ? item.rows[0] : item).cells[header.cellIndex];
  const missing = (item) => ("last" in item.dataset ? 2 : cell(item).dataset.sort === "" ? 1 : 0);
  const items = [...(grouped ? table.tBodies : table.tBodies[0].rows)];
  items.sort((r, s) => missing(r) - missing(s) || (missing(r) ? 0 : sign * compareCells(cell(r), cell(s))));
  (grouped ? table : table.tBodies[0]).append(...items);
}

for (const button of all(".sortable thead button"))
  button.addEventListener("click", () => sortBy(button.closest("th")));

// The runs of a configuration are shown on demand.
function expand(button, open) {
  button.setAttribute("aria-expanded", String(open));
  for (const row of all(".member", button.closest("tbody"))) row.hidden = !open;
}
for (const button of all(".toggle")) {
  button.hidden = false;
  expand(button, false);
  button.addEventListener("click", () => expand(button, button.getAttribute("aria-expanded") !== "true"));
}

// A definition opens beside its question mark; without this script the mark is a link to it.
const note = document.getElementById("note");
let asked = null;
if (note.showPopover) {
  for (const link of all('a[href^="#def-"]'))
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const entry = document.querySelector(link.getAttribute("href"));
      note.replaceChildren(...[...entry.cloneNode(true).children]);
      note.showPopover();
      const [box, mark] = [note.getBoundingClientRect(), link.getBoundingClientRect()];
      const left = Math.min(Math.max(8, mark.left - 16), document.documentElement.clientWidth - box.width - 8);
      const below = mark.bottom + 8 + box.height < innerHeight;
      note.style.left = `${left}px`;
      note.style.top = `${below ? mark.bottom + 8 : Math.max(8, mark.top - box.height - 8)}px`;
      asked = link;
    });
  note.addEventListener("toggle", (event) => {
    if (event.newState === "closed" && note.contains(document.activeElement)) asked?.focus();
  });
  addEventListener("scroll", () => note.hidePopover(), { passive: true });
}

// The best under a limit: the slider walks the table's steps on a log scale.
for (const block of all(".limit")) {
  const [label, rows] = [block.querySelector("label"), all("tbody tr", block)];
  const [input, output] = [block.querySelector("input"), block.querySelector("output")];
  const limits = rows.map((row) => Number(row.dataset.limit));
  const [low, high] = [Math.log(limits[0] * 0.8), Math.log(limits.at(-1) * 1.25)];
  const show = () => {
    const limit = Math.exp(low + ((high - low) * input.value) / input.max);
    const chosen = limits.findLastIndex((step) => step <= limit);
    rows.forEach((row, k) => row.classList.toggle("fits", k === chosen));
    const said = `${limit.toPrecision(3)} ${block.dataset.unit}`;
    const take = chosen < 0 ? "nothing fits" : rows[chosen].cells[1].textContent;
    output.textContent = `under ${said}: ${take}`;
    input.setAttribute("aria-valuetext", output.textContent);
  };
  label.hidden = false;
  input.addEventListener("input", show);
  show();
}

// The feature map shows one class at a time when its name is pressed.
for (const figure of all("[data-map]")) {
  const buttons = all(".classes button", figure);
  for (const button of buttons)
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const other of buttons) other.setAttribute("aria-pressed", String(on && other === button));
      figure.classList.toggle("picked", on);
      for (const path of all(".dots", figure))
        path.classList.toggle("on", on && path.dataset.class === button.dataset.class);
    });
}

// A link to a run opens it.
function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", openTarget);
openTarget();

// Paper cannot be clicked: print with everything open.
let opened = [];
let folded = [];
addEventListener("beforeprint", () => {
  opened = all("details:not([open])");
  folded = all('.toggle[aria-expanded="false"]');
  for (const details of opened) details.open = true;
  for (const button of folded) expand(button, true);
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
  for (const button of folded) expand(button, false);
});

for (const button of all("button.copy")) {
  const source = document.getElementById(button.dataset.copies);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent + "\n");
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);  // the reader's own copy key does the rest
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
