// A summary of what was answered, beside what the answers on validation were.
import { columns, legend, rows } from "./charts.js";
import { find, make, percent, visible } from "./elements.js";
import { ask } from "./service.js";

const SHOWN = 12; // classes; the others are behind a click
const FEW = 100; // below, chance alone makes shares differ by many percent

const count = (number) => number.toLocaleString("en");
const pictures = (number) => `${count(number)} ${number === 1 ? "picture" : "pictures"}`;
const against = (now, before, digits) => `${percent(now, digits)} now` + (before === undefined ? "" : `, ${percent(before, digits)} on validation`);

let models = [];

function chart(sentence, ...parts) {
  return make("section", { className: "chart" }, make("h2", { textContent: sentence }), ...parts);
}

function volume({ parts, images, since, until }) {
  const seconds = (until - since) / parts.length;
  const at = (part) => new Date(1000 * (since + part * seconds));
  const day = until - since > 86_400 * 1.5;
  const settings = day ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit" };
  const named = (part) => at(part).toLocaleString("en-GB", day ? { ...settings, hour: "2-digit", minute: "2-digit" } : settings);
  const most = parts.reduce((best, part, k) => (part.images > parts[best].images ? k : best), 0);
  return chart(
    `${pictures(images)}; the most, ${count(parts[most].images)}, from ${named(most)} to ${named(most + 1)}`,
    columns({
      values: parts.map((part) => part.images),
      names: parts.map((_, k) => `${named(k)} to ${named(k + 1)}`),
      show: count,
      heading: ["time", "pictures"],
      ends: [at(0), at(parts.length / 2), at(parts.length)].map((time) => time.toLocaleString("en-GB", settings)),
    }));
}

function confidence({ confidence: counts, images, mean_probability: mean }, validation) {
  const step = 100 / counts.length;
  return chart(
    `Mean confidence ${against(mean, validation?.mean_probability)}`,
    ...legend(validation),
    columns({
      values: counts.map((number) => number / images),
      before: validation?.confidence,
      names: counts.map((_, k) => `${k * step} to ${(k + 1) * step}\u202f%`),
      show: percent,
      heading: ["confidence", "now", "on validation"],
      ends: ["0\u202f%", "50\u202f%", "100\u202f%"],
    }));
}

function unsure({ unsure: number, images }, validation) {
  const share = number / images;
  return chart(
    `Not sure: ${against(share, validation?.unsure)}`,
    ...legend(validation),
    rows([{ name: "Not sure", value: share, before: validation?.unsure }], 1));
}

function classes({ classes: found, images }, { classes: names, several_labels: several }, validation) {
  const counted = new Map(found.map(({ label, images: number }) => [label, number / images]));
  const all = [...new Set([...counted.keys(), ...names])].map((name) => ({
    name: visible(name || "no label"),
    value: counted.get(name) ?? 0,
    before: validation && (validation.classes[names.indexOf(name)] ?? 0),
  }));
  all.sort((a, b) => b.value - a.value || (b.before ?? 0) - (a.before ?? 0));
  const most = Math.max(...all.flatMap(({ value, before = 0 }) => [value, before]));
  const apart = ({ value, before }) => Math.abs(value - before);
  const named = validation ? all.reduce((a, b) => (apart(b) > apart(a) ? b : a)) : all[0];
  const what = several ? "The most frequent first label" : validation ? "The class that differs most" : "The most frequent class";
  const more = all.slice(SHOWN);
  return chart(
    `${what}: ${named.name}, ${against(named.value, named.before)}`,
    ...legend(validation),
    rows(all.slice(0, SHOWN), most),
    ...(more.length ? [make("details", {},
      make("summary", { textContent: `${more.length} more` }), rows(more, most))] : []));
}

async function show() {
  const model = models.find(({ id }) => id === find("model").value), { validation } = model;
  const hours = find("hours"), asked = hours.value, period = `the last ${hours.selectedOptions[0].textContent}`;
  find("name").textContent = visible(model.id);
  const found = await ask("v1/decisions", { parameters: { model: model.id, hours: asked } });
  if (find("model").value !== model.id || hours.value !== asked) return; // asked again meanwhile
  const { images } = found;
  const few = images < FEW ? " So few may differ from validation by chance." : "";
  const told = validation ? ` Beside them: ${pictures(validation.images)} of validation, answered by the same model.${few}` : "";
  find("lead").textContent = images ? `${pictures(images)} in ${period}.${told}` : `Nothing was answered in ${period}.`;
  find("charts").replaceChildren(...(images ? [
    volume(found), confidence(found, validation),
    ...(model.several_labels ? [] : [unsure(found, validation)]),
    classes(found, model, validation),
  ] : []));
}

function refused(error) {
  find("charts").replaceChildren();
  find("lead").textContent = error.message;
}

async function start() {
  ({ models } = await ask("v1/models"));
  find("model").replaceChildren(...models.map(({ id }) => make("option", { value: id, textContent: visible(id) })));
  find("of").hidden = models.length < 2;
  await show();
}

for (const id of ["model", "hours"]) find(id).addEventListener("change", () => show().catch(refused));
start().catch(refused);
