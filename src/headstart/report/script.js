"use strict";
document.documentElement.classList.add("js");

// Sorting: rows without a value stay last, and those without a result below them.
function compareCells(a, b) {
  const [x, y] = [a.dataset.sort, b.dataset.sort];
  const [m, n] = [Number(x), Number(y)];
  return Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y, undefined, { numeric: true }) : m - n;
}

function sortBy(header) {
  const body = header.closest("table").tBodies[0];
  const now = header.getAttribute("aria-sort");
  const next = now === null ? header.dataset.first : now === "ascending" ? "descending" : "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const cell = (row) => row.cells[header.cellIndex];
  const missing = (row) => ("last" in row.dataset ? 2 : cell(row).dataset.sort === "" ? 1 : 0);
  body.append(...[...body.rows].sort((r, s) => missing(r) - missing(s) || (missing(r) ? 0 : sign * compareCells(cell(r), cell(s)))));
}

for (const button of document.querySelectorAll(".sortable th button"))
  button.addEventListener("click", () => sortBy(button.closest("th")));

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
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});

for (const button of document.querySelectorAll("button.copy")) {
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
