// The page on which pictures are classified.
import { describe } from "./about.js";
import { showAnswer, showFailure, waiting } from "./answers.js";
import { listen } from "./asking.js";
import { find, make, visible } from "./elements.js";
import { drawHeat } from "./heat.js";
import { ask, Refusal } from "./service.js";

const LISTED = 12; // classes named at the top
const NO_MODEL = ""; // of the second choice
const NOT_FOUND = 404, TOO_LARGE = 413, UNKNOWN_FORMAT = 415, UNREADABLE = 422;

let models = [];
const pictures = new WeakMap(); // of each item in the list: { item, name, file, replies by model }
const withoutHeat = new Set(); // models that cannot say where they look

// The models

const chosen = () => [find("first").value, find("second").value]
  .map((id) => models.find((model) => model.id === id)).filter(Boolean);

async function loadModels() {
  ({ models } = await ask("v1/models"));
  const names = models.map(({ id }) => id), { value: first } = find("first"), { value: second } = find("second");
  fill(find("first"), names, first);
  fillSecond(second);
  find("models").hidden = models.length < 2;
  showModels();
}

function fill(select, names, value, ...before) {
  const options = names.map((name) => make("option", { value: name, textContent: visible(name) }));
  select.replaceChildren(...before, ...options);
  if (names.includes(value)) select.value = value;
}

function fillSecond(value) {
  const others = models.map(({ id }) => id).filter((id) => id !== find("first").value);
  fill(find("second"), others, value, make("option", { value: NO_MODEL, textContent: "no other model" }));
}

function showModels() {
  const [model, ...others] = chosen(), names = [model, ...others].map(({ id }) => visible(id));
  document.title = names.join(" and ");
  find("name").textContent = document.title;
  const between = model.classes.some((name) => name.includes(",")) ? "; " : ", ";
  const more = model.classes.length - LISTED;
  const listed = model.classes.slice(0, LISTED).map(visible).join(between) + (more > 0 ? ` and ${more} more` : "");
  const count = model.classes.length;
  find("lead").textContent = model.several_labels ? `Finds any of ${count} labels: ${listed}.` : `Tells ${count} classes apart: ${listed}.`;
  find("invitation").textContent = model.several_labels ? "What is in it?" : "Which class is it?";
  find("about").replaceChildren(...[model, ...others].map((each) => describe(each, others.length > 0)));
}

find("first").addEventListener("change", () => { fillSecond(find("second").value); showAgain(); });
find("second").addEventListener("change", showAgain);

function showAgain() {
  showModels();
  for (const item of find("answers").children) if (pictures.has(item)) show(item);
}

// The answers

// The square that the model sees, drawn by the browser where it can.
function thumbnail({ name, file }, { framing }) {
  const image = make("img", {
    className: framing, src: URL.createObjectURL(file), alt: `The part of ${visible(name)} that the model sees`,
  });
  image.addEventListener("load", () => {
    URL.revokeObjectURL(image.src);
    if (Math.max(image.naturalWidth, image.naturalHeight) < 96) image.classList.add("coarse");
  });
  image.addEventListener("error", () => {
    URL.revokeObjectURL(image.src);
    image.replaceWith(make("p", { className: "quiet", textContent: "This browser cannot show it" }));
  });
  return make("div", { className: "seen" }, image);
}

async function requireFile(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Refusal(UNREADABLE, "This is not a file: of a folder, choose the pictures in it.");
  }
}

async function work(place, picture, model) {
  const { name, file } = picture;
  const note = place.querySelector(".note");
  try {
    await requireFile(file);
    const reply = await ask("v1/predict", {
      picture: file,
      parameters: { model: model.id, top: model.classes.length },
      onWait: (seconds) => { note.textContent = `The service is busy: asking again in ${seconds} s …`; },
    });
    if (reply.model.bundle_sha256 !== model.bundle_sha256) await loadModels(); // it was replaced
    const now = models.find(({ id }) => id === model.id);
    showAnswer(place, name, thumbnail(picture, now), reply.answers[0], now);
    addHeat(place, picture, now);
  } catch (error) {
    const unreadable = [UNREADABLE, UNKNOWN_FORMAT].includes(error.status);
    showFailure(place, name, unreadable ? "Cannot be read" : "No answer", error.message);
    if (!unreadable && error.status !== TOO_LARGE) addAgain(place, picture, model);
  }
  addModel(place, model);
}

// Shown where two models answer.
function addModel(place, { id }) {
  place.querySelector(".words").prepend(make("p", { className: "by", textContent: visible(id) }));
}

function addAgain(place, picture, model) {
  const again = make("button", { className: "small", type: "button", textContent: "Ask again" });
  again.addEventListener("click", () => {
    const next = waiting(picture.name);
    picture.replies.set(model.id, next);
    place.replaceWith(next);
    enqueue(next, picture, model);
  });
  place.querySelector(".words").append(again);
}

function addHeat(place, { name, file }, model) {
  if (withoutHeat.has(model.id)) return;
  const button = make("button", { className: "small look", type: "button", textContent: "Where the model looked", ariaPressed: "false" });
  const note = make("p", { className: "quiet told", role: "status" });
  button.dataset.model = model.id;
  let heat = null;
  button.addEventListener("click", async () => {
    const pressed = button.ariaPressed !== "true";
    if (pressed && !heat) {
      button.disabled = true;
      note.textContent = "Covering one part after another …";
      try {
        const found = await ask("v1/explain", { picture: file, parameters: { model: model.id } });
        heat = await drawHeat({ ...found, label: visible(found.label) }, visible(name));
        place.querySelector(".seen").append(heat.canvas);
      } catch (error) {
        note.textContent = error.message;
        if (error.status === NOT_FOUND) hideHeat(model.id);
        return;
      } finally {
        button.disabled = false;
      }
    }
    button.ariaPressed = String(pressed);
    heat.canvas.hidden = !pressed;
    note.textContent = pressed ? heat.told : "";
  });
  place.querySelector(".words").append(button, note);
}

function hideHeat(id) {
  withoutHeat.add(id);
  for (const button of document.querySelectorAll(".look")) if (button.dataset.model === id) button.remove();
}

let queue = Promise.resolve(); // one picture after the other: the service is not for this page alone
function enqueue(place, picture, model) {
  queue = queue.then(() => picture.item.isConnected && work(place, picture, model));
}

function show(item) {
  const picture = pictures.get(item), { replies, name } = picture;
  for (const model of chosen()) {
    if (replies.has(model.id)) continue;
    replies.set(model.id, waiting(name));
    enqueue(replies.get(model.id), picture, model);
  }
  const places = chosen().map((model) => make("div", { className: "reply" }, replies.get(model.id)));
  item.className = places.length > 1 ? "pair" : "";
  item.replaceChildren(...places);
}

async function add(name, source) {
  const item = make("li", {}, waiting(name));
  find("answers").prepend(item);
  find("results").hidden = false;
  const file = source instanceof Blob ? source : await asFile(source);
  pictures.set(item, { item, name, file, replies: new Map() });
  if (await ready) show(item);
  else showFailure(item.firstChild, name, "No answer", find("state").textContent);
}

// Without a loss, as a shot of the camera is no file yet.
async function asFile(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

const ready = loadModels().then(
  () => { document.body.dataset.state = "ready"; find("state").textContent = "Ready."; return true; },
  (error) => {
    document.body.dataset.state = "failed";
    find("state").textContent = error.message;
    return false;
  },
);
listen(add);
