// Where a picture may have several labels: in place of the functions of these names before.

const least = new Map(classes.map((name, k) => [name, JSON.parse(find("facts").textContent).thresholds[k]]));
const isThere = ({ name, probability }) => probability >= least.get(name);

function bar({ name, probability }) {
  const fill = make("span", { className: "fill" }), mark = make("span", { className: "least" });
  fill.style.width = `${100 * probability}%`;
  mark.style.left = `${100 * least.get(name)}%`;
  const item = make("li", { title: `a label from ${percent(least.get(name))} up` },
    make("span", { className: "name", textContent: name }),
    make("span", { className: "track", ariaHidden: "true" }, fill, mark),
    make("data", { value: String(probability), textContent: percent(probability) }));
  if (isThere({ name, probability })) item.classList.add("there");
  return item;
}

function showAnswer(item, name, square, found) {
  const there = found.filter(isThere), told = there.map((each) => each.name).join(", ");
  const [next] = found.filter((each) => !isThere(each));
  const note = next ? `The next is ${next.name}, at ${percent(next.probability)} of the ${percent(least.get(next.name))} it needs.` : "";
  item.className = there.length ? "answer" : "answer unsure";
  item.replaceChildren(
    thumbnail(square, name),
    words(name, told || "No label", note),
    bars([...there, ...found.filter((each) => !isThere(each))]));
  if (!item.previousElementSibling) item.scrollIntoView({ block: "nearest" });
  say(`${name}: ${told || "no label"}`);
}
