const find = (id) => document.getElementById(id);
const { classes, side, framing, threshold } = JSON.parse(find("facts").textContent);
const SHOWN = 5; // bars; the others are behind a click
const KNOWN = "Pictures in JPEG, PNG, WebP, GIF, BMP and AVIF can be read.";

function make(kind, settings = {}, ...children) {
  const made = Object.assign(document.createElement(kind), settings);
  made.append(...children);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(1)}\u202f%`;
const painted = () => new Promise((resolve) => setTimeout(resolve, 30));
const say = (text) => { find("said").textContent = text; };

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

const model = start();
model.then(
  () => { document.body.dataset.state = "ready"; find("state").textContent = "Ready."; },
  (error) => {
    document.body.dataset.state = "failed";
    find("state").textContent = `The model cannot be started in this browser (${error.message}). `
      + "A current version of Chrome, Edge, Firefox or Safari can.";
  },
);

async function answer(pixels) {
  const images = new ort.Tensor("uint8", new Uint8Array(pixels.buffer), [1, side, side, 3]);
  const { probabilities } = await (await model).run({ pixels: images }, ["probabilities"]);
  return Array.from(probabilities.data, (probability, k) => ({ name: classes[k], probability }))
    .sort((a, b) => b.probability - a.probability);
}

// Answers

function bar({ name, probability }) {
  const fill = make("span", { className: "fill" });
  fill.style.width = `${100 * probability}%`;
  return make("li", {},
    make("span", { className: "name", textContent: name }),
    make("span", { className: "track", ariaHidden: "true" }, fill),
    make("data", { value: String(probability), textContent: percent(probability) }));
}

function thumbnail({ canvas, size: [across, down] }, name) {
  const size = Math.min(Math.max(canvas.width, canvas.height), 320);
  const small = make("canvas", { width: size, height: size, role: "img" });
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

function words(name, label, note) {
  return make("div", { className: "words" },
    make("p", { className: "file", textContent: name }),
    make("h3", { textContent: label }),
    make("p", { className: "note", textContent: note }));
}

function bars(found) {
  const all = make("div", { className: "shares" },
    make("ol", { className: "bars" }, ...found.slice(0, SHOWN).map(bar)));
  const more = found.length - SHOWN;
  if (more > 0) {
    all.append(make("details", {},
      make("summary", { textContent: more === 1 ? "1 more class" : `${more} more classes` }),
      make("ol", { className: "bars", start: SHOWN + 1 }, ...found.slice(SHOWN).map(bar))));
  }
  return all;
}

function showAnswer(item, name, square, found) {
  const [best] = found, sure = best.probability >= threshold, share = percent(best.probability);
  const doubt = threshold < 1 ? `Its answers are reliable from ${percent(threshold)} up.`
    : "None of its answers are reliable.";
  item.className = sure ? "answer" : "answer unsure";
  item.replaceChildren(
    thumbnail(square, name),
    sure ? words(name, best.name, `${share} sure`)
      : words(name, "Not sure", `Perhaps ${best.name}, at ${share}. ${doubt}`),
    bars(found));
  if (!item.previousElementSibling) item.scrollIntoView({ block: "nearest" });
  say(`${name}: ${sure ? "" : "not sure, perhaps "}${best.name}, ${share}`);
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

function showFailure(item, name, label, why) {
  item.className = "answer failed";
  item.replaceChildren(words(name, label, why));
  say(`${name}: ${label}. ${why}`);
}

async function work(item, name, source) {
  let square;
  try {
    square = await framed(source, side, framing);
  } catch {
    return showFailure(item, name, "Cannot be read", await reason(source));
  }
  await painted();
  try {
    const found = await answer(resized(square, side));
    showAnswer(item, name, square, found);
  } catch (error) {
    showFailure(item, name, "No answer", error.message);
  }
}

let queue = Promise.resolve(); // one at a time: a photograph needs much memory
function add(name, source) {
  const item = make("li", { className: "answer waiting" },
    make("div", { className: "words" },
      make("p", { className: "file", textContent: name }),
      make("p", { className: "note", textContent: "Waiting for the answer …" })));
  find("answers").prepend(item);
  find("results").hidden = false;
  queue = queue.then(() => work(item, name, source));
}

function addFiles(files) {
  for (const file of files) add(file.name || "picture", file);
  return files.length > 0;
}

// Ways in: chosen, dropped, pasted

for (const id of ["chosen", "taken"]) {
  find(id).addEventListener("change", ({ target }) => { addFiles([...target.files]); target.value = ""; });
}
find("choose").addEventListener("click", () => find("chosen").click());
find("take").addEventListener("click", () => find("taken").click());
find("take").hidden = !matchMedia("(pointer: coarse)").matches;
find("clear").addEventListener("click", () => {
  find("answers").replaceChildren();
  find("results").hidden = true;
  find("choose").focus();
});

addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (!addFiles([...event.dataTransfer.files])) hint("Only files can be dropped: save the picture first, or copy and paste it.");
});
addEventListener("paste", (event) => {
  if (!addFiles([...event.clipboardData.files])) hint("There is no picture on the clipboard.");
});

function hint(text) {
  find("hint").textContent = text;
}

// The camera

const camera = find("camera"), video = find("video");
let shots = 0;

find("live").hidden = !navigator.mediaDevices?.getUserMedia;
find("live").addEventListener("click", async () => {
  hint("");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } },
    });
    camera.showModal();
  } catch (error) {
    hint(`The camera cannot be used: ${error.message}. Choose a picture instead.`);
  }
});
find("shoot").addEventListener("click", async () => {
  const shot = await createImageBitmap(video);
  camera.close();
  add(`Photo ${++shots}`, shot);
});
find("cancel").addEventListener("click", () => camera.close());
camera.addEventListener("close", () => {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
});
