// Bars of numbers, each beside that of validation where there is one.
import { make, percent } from "./elements.js";

export function legend(validation) {
  if (!validation) return [];
  return [make("p", { className: "legend quiet", ariaHidden: "true" },
    make("span", { className: "now" }), "now", make("span", { className: "before" }), "on validation")];
}

function numbers(heading, lines) {
  const line = (cells, kind) => make("tr", {}, ...cells.map((cell) => make(kind, { textContent: cell })));
  return make("details", {},
    make("summary", { textContent: "The numbers" }),
    make("table", {}, make("thead", {}, line(heading, "th")), make("tbody", {}, ...lines.map((cells) => line(cells, "td")))));
}

// Upright bars, one for each of `names`. ends: what stands below the first, the middle, the last.
export function columns({ values, before, names, show, heading, ends }) {
  const most = Math.max(...values, ...(before ?? [])) || 1;
  const grown = (className, value) => {
    const made = make("span", { className });
    made.style.height = `${100 * value / most}%`;
    if (!value) made.hidden = true;
    return made;
  };
  const bars = values.map((value, k) => {
    const title = `${names[k]}: ${show(value)}${before ? ` now, ${show(before[k])} on validation` : ""}`;
    return make("span", { className: "column", title },
      ...(before ? [grown("before", before[k])] : []), grown("now", value));
  });
  const drawn = make("div", { className: "columns", role: "img", ariaLabel: `${heading[1]} by ${heading[0]}, as in the table below` }, ...bars);
  const lines = values.map((value, k) => [names[k], show(value), ...(before ? [show(before[k])] : [])]);
  return make("div", {},
    make("p", { className: "most quiet", ariaHidden: "true", textContent: show(most) }),
    drawn,
    make("p", { className: "ends quiet", ariaHidden: "true" }, ...ends.map((textContent) => make("span", { textContent }))),
    numbers(before ? heading : heading.slice(0, 2), lines));
}

// A named bar for each, with its numbers. most: what fills the whole width.
export function rows(given, most) {
  return make("ul", { className: "rows" }, ...given.map(({ name, value, before }) => {
    const grown = (className, share) => {
      const made = make("span", { className });
      made.style.width = `${100 * share / (most || 1)}%`;
      return made;
    };
    const beside = before === undefined ? [] : [make("small", { textContent: percent(before) }, make("span", { className: "hidden", textContent: " on validation" }))];
    return make("li", {},
      make("span", { className: "name", textContent: name }),
      make("span", { className: "lane", ariaHidden: "true" },
        ...(before === undefined ? [] : [grown("before", before)]), grown("now", value)),
      make("data", { value: String(value), textContent: percent(value) }),
      ...beside);
  }));
}
