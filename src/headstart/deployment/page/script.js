// html_export.py joins these files to one script.
import { listen } from "./asking.js";
import { showAnswer, showFailure, waiting } from "./answers.js";
import { find, make } from "./elements.js";
import { framed, PADDING, resized } from "./picture.js";

const model = JSON.parse(find("facts").textContent);
const { classes, side, framing } = model;
const KNOWN = "Pictures in JPEG, PNG, WebP, GIF, BMP and AVIF can be read.";

const painted = () => new Promise((resolve) => setTimeout(resolve, 30));

// The model

async function unpack(id) {
  const element = find(id), text = atob(element.textContent.trim());
  element.remove(); // it is large, and needed once
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  await painted();
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpack("wasm");
  return ort.InferenceSession.create(await unpack("model"), { executionProviders: ["wasm"] });
}

const session = start();
session.then(
  () => { document.body.dataset.state = "ready"; find("state").textContent = "Ready."; },
  (error) => {
    document.body.dataset.state = "failed";
    find("state").textContent = `The model cannot be started in this browser (${error.message}). `
      + "A current version of Chrome, Edge, Firefox or Safari can.";
  },
);

async function answer(pixels) {
  const images = new ort.Tensor("uint8", new Uint8Array(pixels.buffer), [1, side, side, 3]);
  const { probabilities } = await (await session).run({ pixels: images }, ["probabilities"]);
  const of = Array.from(probabilities.data);
  const top = of.map((probability, k) => ({ label: classes[k], probability }))
    .sort((a, b) => b.probability - a.probability);
  const there = model.thresholds && classes.filter((_, k) => of[k] >= model.thresholds[k]);
  const [best] = top;
  return {
    ...best,
    labels: there ? top.map(({ label }) => label).filter((label) => there.includes(label)) : [best.label],
    sure: best.probability >= model.threshold,
    top,
  };
}

// Answers

function thumbnail({ canvas, size: [across, down] }, name) {
  const size = Math.min(Math.max(canvas.width, canvas.height), 320);
  const small = make("canvas", { className: "seen", width: size, height: size, role: "img" });
  small.setAttribute("aria-label", `The part of ${name} that the model sees`);
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = `rgb(${PADDING})`;
  context.fillRect(0, 0, size, size);
  const width = (size * across) / side, height = (size * down) / side;
  context.drawImage(canvas, (size - width) / 2, (size - height) / 2, width, height);
  if (size < 96) small.classList.add("coarse");
  return small;
}

async function reason(source) {
  if (!(source instanceof Blob)) return "It cannot be read.";
  if (!source.size) return "The file is empty.";
  const head = new TextDecoder("latin1").decode(await source.slice(0, 12).arrayBuffer());
  if (/^....ftyp(hei|hev|mif|msf)/s.test(head)) return "This browser cannot read HEIC: save it as JPEG.";
  if (/^(II\*\0|MM\0\*)/.test(head)) return "This browser cannot read TIFF: save it as PNG.";
  const picture = /^(\xff\xd8|\x89PNG|GIF8|BM|RIFF)/.test(head);
  return picture ? "The file is damaged, cut short, or too large for this browser." : `This is not a picture. ${KNOWN}`;
}

async function work(place, name, source) {
  let square;
  try {
    square = await framed(source, side, framing);
  } catch {
    return showFailure(place, name, "Cannot be read", await reason(source));
  }
  await painted();
  try {
    showAnswer(place, name, thumbnail(square, name), await answer(resized(square, side)), model);
  } catch (error) {
    showFailure(place, name, "No answer", error.message);
  }
}

let queue = Promise.resolve(); // one at a time: a photograph needs much memory
function add(name, source) {
  const place = waiting(name);
  find("answers").prepend(make("li", {}, place));
  find("results").hidden = false;
  queue = queue.then(() => work(place, name, source));
}

listen(add);
