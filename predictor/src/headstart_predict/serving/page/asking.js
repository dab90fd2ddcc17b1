// How pictures come in: chosen, dropped, pasted, or taken with the camera.
import { find, make } from "./elements.js";

const hint = (text) => { find("hint").textContent = text; };

// add(name, source) is called for each picture: a file, or a shot of the camera as an ImageBitmap.
export function listen(add) {
  const addFiles = (files) => {
    hint("");
    for (const file of files) add(file.name || "picture", file);
    return files.length > 0;
  };
  listenToButtons(addFiles);
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    if (!addFiles([...event.dataTransfer.files])) hint("Only files can be dropped: save the picture first, or copy and paste it.");
  });
  addEventListener("paste", (event) => {
    if (event.target.closest("input")) return;
    if (!addFiles([...event.clipboardData.files])) hint("There is no picture on the clipboard.");
  });
  listenToCamera(add);
}

function listenToButtons(addFiles) {
  const input = (id, ariaLabel) => make("input", { id, type: "file", accept: "image/*", hidden: true, ariaLabel });
  const chosen = input("chosen", "Pictures"), taken = input("taken", "A photo");
  chosen.multiple = true;
  taken.setAttribute("capture", "environment");
  find("ask").append(chosen, taken);
  for (const each of [chosen, taken]) {
    each.addEventListener("change", () => { addFiles([...each.files]); each.value = ""; });
  }
  find("choose").addEventListener("click", () => chosen.click());
  find("take").addEventListener("click", () => taken.click());
  find("take").hidden = !matchMedia("(pointer: coarse)").matches;
  find("clear").addEventListener("click", () => {
    find("answers").replaceChildren();
    find("results").hidden = true;
    find("choose").focus();
  });
}

function listenToCamera(add) {
  const video = make("video", { id: "video", autoplay: true, playsInline: true, muted: true });
  const shoot = make("button", { className: "main", type: "button", textContent: "Take the picture" });
  const cancel = make("button", { type: "button", textContent: "Cancel" });
  const camera = make("dialog", { id: "camera", ariaLabel: "Camera" },
    video, make("p", { className: "buttons" }, shoot, cancel));
  document.body.append(camera);
  let shots = 0;

  // A browser gives no camera to a page from an address without https, other than this machine's.
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
  shoot.addEventListener("click", async () => {
    const shot = await createImageBitmap(video);
    camera.close();
    add(`Photo ${++shots}`, shot);
  });
  cancel.addEventListener("click", () => camera.close());
  camera.addEventListener("close", () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  });
}
