// A model card as elements: the part of Markdown that headstart/report/templates/card.md.j2 writes.
// Whatever else a text says is shown as text; nothing of it becomes markup.
import { make, visible } from "./elements.js";

const ENTITIES = { "&lt;": "<", "&gt;": ">", "&amp;": "&" };
const FRONT = /^---\n[^]*?\n---\n/; // for the hub
const HEADING = /^(#{1,6}) +(.*)/, ITEM = /^ {0,3}(?:[-*]|\d+[.)]) +(.*)/, FENCE = /^(`{3,})/;
const INDENTED = /^ {4}/, ROW = /^\|/, RULE = /^\|[ :|-]+\|$/;
const INLINE = /\\([!-/:-@[-`{-~])|(&(?:lt|gt|amp);)|(`+)([^]*?[^`])\3(?!`)|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]*)\]\([^)\s]*\)/g;

// Links are shown as their text: a card may come from anyone.
function inline(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, escaped, entity, , code, strong, emphasis, link] = found;
    parts.push(text.slice(end, found.index));
    end = found.index + whole.length;
    if (code !== undefined) parts.push(make("code", { textContent: code.trim() }));
    else if (strong !== undefined) parts.push(make("strong", {}, ...inline(strong)));
    else if (emphasis !== undefined) parts.push(make("em", {}, ...inline(emphasis)));
    else if (link !== undefined) parts.push(...inline(link));
    else parts.push(escaped ?? ENTITIES[entity]);
  }
  return [...parts, text.slice(end)];
}

function table(rows) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
  const [head, , ...body] = rows;
  const line = (row, kind) => make("tr", {}, ...cells(row).map((cell) => make(kind, {}, ...inline(cell))));
  return make("div", { className: "wide-table", tabIndex: 0, role: "region", ariaLabel: "Table" },
    make("table", {}, make("thead", {}, line(head, "th")), make("tbody", {}, ...body.map((row) => line(row, "td")))));
}

const code = (lines) => make("pre", { tabIndex: 0 }, make("code", { textContent: lines.join("\n") }));

export function render(card) {
  const lines = card.replaceAll("\r", "").replace(FRONT, "").split("\n").map((line) => visible(line));
  const shown = make("div", { className: "card" });
  const take = (holds) => {
    const taken = [];
    while (lines.length && holds(lines[0])) taken.push(lines.shift());
    return taken;
  };
  const begins = (line) => !line.trim() || [HEADING, ITEM, FENCE, ROW].some((pattern) => pattern.test(line));
  while (lines.length) {
    const [line] = lines, fence = line.match(FENCE)?.[1];
    if (!line.trim()) lines.shift();
    else if (fence) {
      lines.shift();
      shown.append(code(take((each) => !each.startsWith(fence))));
      lines.shift();
    } else if (HEADING.test(line)) {
      const [, marks, title] = lines.shift().match(HEADING);
      shown.append(make(marks.length > 1 ? "h3" : "h2", {}, ...inline(title)));
    } else if (ROW.test(line) && RULE.test(lines[1]?.trim() ?? "")) shown.append(table(take((each) => ROW.test(each))));
    else if (ITEM.test(line)) shown.append(make("ul", {}, ...items(take)));
    else if (INDENTED.test(line)) shown.append(code(take((each) => INDENTED.test(each)).map((each) => each.slice(4))));
    else shown.append(make("p", {}, ...inline([lines.shift(), ...take((each) => !begins(each))].join(" "))));
  }
  return shown;
}

function items(take) {
  const found = [];
  for (const line of take((each) => ITEM.test(each) || /^ +\S/.test(each))) {
    const item = line.match(ITEM);
    if (item) found.push(item[1]);
    else found[found.length - 1] += ` ${line.trim()}`;
  }
  return found.map((text) => make("li", {}, ...inline(text)));
}
