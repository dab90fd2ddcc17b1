// What a model says of itself: facts, and its card.
import { make, percent, visible } from "./elements.js";
import { render } from "./markdown.js";

// What it does with a picture that is not square: see headstart_predict/framing.py.
const FRAMED = {
  crop: "cropped to its centre square",
  pad: "padded to a square with the mean colour",
  squash: "squashed to a square",
};

const count = (number) => number.toLocaleString("en");

function facts(model) {
  const { threshold, weights } = model;
  return [
    ...(model.several_labels ? [] : [["Not sure", ...doubt(threshold)]]),
    ["Backbone", model.backbone, `sees ${model.side} pixels a side; a picture that is not square is ${FRAMED[model.framing]}`],
    ["Licence of its weights", weights.licence, weights.source],
    ["Computed by", model.engine, `in ${model.precision}`],
    ["Version", model.version, "the first letters of its SHA-256"],
  ].map((row) => fact(...row));
}

function scoreOf({ score, several_labels: several }) {
  if (!score) return [];
  const [low, high] = [score.low, score.high].map((share) => (100 * share).toFixed(1));
  const found = fact(several ? "Mean average precision" : "Right answers", percent(score.accuracy),
    `of ${count(score.images)} test images; 95 % interval ${low} to ${high}`);
  found.className = "score";
  return [found];
}

const spaced = (text) => visible(String(text)).replaceAll(" %", "\u202f%");

const fact = (label, value, more) => make("div", {},
  make("dt", { textContent: label }),
  make("dd", {}, `${spaced(value)} `, make("small", { textContent: spaced(more) })));

function doubt(threshold) {
  if (!threshold) return ["never", "95 % of all answers on validation images were right"];
  if (threshold >= 1) return ["always", "too few answers on validation images were right, however sure they were"];
  return [`below ${percent(threshold)}`, "95 % of the surer answers on validation images were right"];
}

// named: whether its name is needed to tell it from another one.
export function describe(model, named) {
  const section = make("section", { className: "model" },
    make("h2", { textContent: named ? `About ${visible(model.id)}` : "About this model" }),
    make("dl", {}, ...scoreOf(model), ...facts(model)));
  if (model.card) {
    const button = make("button", { className: "small", type: "button", textContent: "Read its model card" });
    button.addEventListener("click", () => openCard(model.card));
    section.append(button);
  }
  return section;
}

function openCard(text) {
  const close = make("button", { className: "small", type: "button", textContent: "Close" });
  const dialog = make("dialog", { className: "reading", ariaLabel: "Model card" },
    make("p", { className: "closing" }, close), render(text));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
