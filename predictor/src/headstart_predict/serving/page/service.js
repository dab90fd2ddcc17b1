// Requests to the service that this page is from.
import { make, sentence } from "./elements.js";

const BUSY = 429, NO_TOKEN = 401;
const TRIES = 6, LONGEST_WAIT_S = 30;
const KEPT = "token"; // in the storage of this tab

// A request that got no answer. Its message is one line that says what would work.
export class Refusal extends Error {
  constructor(status, detail) {
    super(sentence(detail));
    this.status = status;
  }
}

// What the address gives, as JSON. picture: a Blob to send. onWait(seconds): called where the
// service is busy, before the request is made again.
export async function ask(path, { picture, parameters = {}, onWait = () => {} } = {}) {
  const address = `${path}?${new URLSearchParams(parameters)}`;
  for (let attempt = 1; ; attempt++) {
    const reply = await send(address, picture);
    if (reply.ok) return reply.json();
    const problem = await reply.json().catch(() => ({})); // of a proxy it may be a page
    if (reply.status === NO_TOKEN && await askForToken()) continue;
    if (reply.status !== BUSY || attempt === TRIES) throw new Refusal(reply.status, problem.detail ?? `The answer was ${reply.status} ${reply.statusText}`);
    const seconds = Math.min(Number(reply.headers.get("retry-after")) || 1, LONGEST_WAIT_S);
    onWait(seconds);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

async function send(address, picture) {
  const token = sessionStorage.getItem(KEPT), settings = { headers: {} };
  if (token) settings.headers.authorization = `Bearer ${token}`;
  if (picture) {
    settings.method = "POST";
    settings.body = new FormData();
    settings.body.append("image", picture, "picture"); // the name stays here
  }
  try {
    return await fetch(address, settings);
  } catch {
    throw new Refusal(0, picture
      ? "The service cannot be reached, or it refuses a file of this size."
      : "The service cannot be reached.");
  }
}

let asked = null; // one form for all requests that wait for a token

// Whether one was given.
function askForToken() {
  asked ??= new Promise((resolve) => {
    const input = make("input", {
      id: "token", type: "password", required: true, pattern: "[!-~]{8,}", autocomplete: "off",
      title: "eight or more letters and digits, without spaces",
    });
    const cancel = make("button", { type: "button", textContent: "Cancel" });
    const form = make("form", {},
      make("label", { htmlFor: "token", textContent: "Token" }), input,
      make("p", { className: "buttons" },
        make("button", { className: "main", textContent: "Continue" }), cancel));
    const again = sessionStorage.getItem(KEPT)
      ? "The service did not accept this token." : "Whoever runs the service has it.";
    const dialog = make("dialog", { className: "token", ariaLabel: "Token" },
      make("h2", { textContent: "This service needs a token" }),
      make("p", { className: "note", textContent: again }), form);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEPT, input.value);
      dialog.close("given");
    });
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      asked = null;
      resolve(dialog.returnValue === "given");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  return asked;
}
