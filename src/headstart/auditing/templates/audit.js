"use strict";
// Decisions: one for each picture, wherever on the page it is shown.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const state = document.getElementById("state");
const button = document.getElementById("download");
const cards = all("fieldset[data-path]");
const decisions = new Map();
let kept = true;  // whether the newest decisions are in a file

function decide(card, action) {
  const label = action === "relabel" ? card.dataset.suggested : card.dataset.label;
  decisions.set(card.dataset.path, { label, action });
  for (const other of cards.filter((each) => each.dataset.path === card.dataset.path)) {
    const same = all("input", other).find(
      (input) => input.value === action && (action !== "relabel" || other.dataset.suggested === label),
    );
    for (const input of all("input", other)) input.checked = input === same;
    other.dataset.decided = action;
  }
  kept = false;
  const pictures = new Set(cards.map((each) => each.dataset.path)).size;
  state.textContent = `${decisions.size} of ${pictures} pictures decided.`;
  button.disabled = false;
}

for (const card of cards) {
  card.addEventListener("change", (event) => decide(card, event.target.value));
  card.addEventListener("keydown", (event) => {
    const action = { k: "keep", r: "relabel", x: "remove" }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!all("input", card).some((input) => input.value === action)) return;
    event.preventDefault();
    decide(card, action);
    const next = cards.slice(cards.indexOf(card) + 1).find((each) => !each.dataset.decided);
    next?.querySelector("input").focus();
  });
}

// No spreadsheet computes a cell that begins with ./ or with an apostrophe.
const formula = /^[=+\-@\t\r]/;
const quoted = (text) => `"${text.replaceAll('"', '""')}"`;

function table() {
  const lines = ["path,label,action"];
  for (const [key, { label, action }] of decisions) {
    const path = JSON.parse(key);
    const cells = [formula.test(path) ? `./${path}` : path, formula.test(label) ? `'${label}` : label];
    lines.push([...cells.map(quoted), action].join(","));
  }
  return lines.join("\n") + "\n";
}

button?.addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  kept = true;
});
addEventListener("beforeunload", (event) => {
  if (!kept) event.preventDefault();
});
