// How an answer is shown. Models and answers are as /v1/models and /v1/predict describe them.
import { make, percent, say, visible } from "./elements.js";

const SHOWN = 5; // bars; the others are behind a click

function words(name, title, note) {
  return make("div", { className: "words" },
    make("p", { className: "file", textContent: visible(name) }),
    make("h3", { textContent: visible(title) }),
    make("p", { className: "note", textContent: visible(note) }));
}

// Of several labels: what each needs.
const leastOf = ({ classes, thresholds }) => thresholds && new Map(classes.map((name, k) => [name, thresholds[k]]));

function bar({ label, probability }, isThere, least) {
  const fill = make("span", { className: "fill" });
  const track = make("span", { className: "track", ariaHidden: "true" }, fill);
  fill.style.width = `${100 * probability}%`;
  const item = make("li", { className: isThere ? "there" : "" },
    make("span", { className: "name", textContent: visible(label) }),
    track,
    make("data", { value: String(probability), textContent: percent(probability) }));
  if (least !== undefined) {
    const mark = make("span", { className: "least" });
    mark.style.left = `${100 * least}%`;
    track.append(mark);
    item.title = `a label from ${percent(least)} up`;
  }
  return item;
}

function bars(guesses, labels, least) {
  const isThere = ({ label }) => labels.includes(label);
  const ordered = [...guesses.filter(isThere), ...guesses.filter((each) => !isThere(each))];
  const rows = ordered.map((each) => bar(each, isThere(each), least?.get(each.label)));
  const shares = make("div", { className: "shares" },
    make("ol", { className: "bars" }, ...rows.slice(0, SHOWN)));
  const more = rows.length - SHOWN;
  if (more > 0) {
    shares.append(make("details", {},
      make("summary", { textContent: more === 1 ? "1 more class" : `${more} more classes` }),
      make("ol", { className: "bars", start: SHOWN + 1 }, ...rows.slice(SHOWN))));
  }
  return shares;
}

function phraseOne({ label, probability, sure }, { threshold }) {
  const share = percent(probability);
  if (sure) return { title: label, note: `${share} sure`, said: `${label}, ${share}` };
  const doubt = threshold < 1 ? `Its answers are reliable from ${percent(threshold)} up.`
    : "None of its answers are reliable.";
  return {
    title: "Not sure", note: `Perhaps ${label}, at ${share}. ${doubt}`, said: `not sure, perhaps ${label}, ${share}`,
  };
}

function phraseMany({ labels, top }, least) {
  const told = labels.join(", "), next = top.find(({ label }) => !labels.includes(label));
  const note = next
    ? `The next is ${next.label}, at ${percent(next.probability)} of the ${percent(least.get(next.label))} it needs.` : "";
  return { title: told || "No label", note, said: told || "no label" };
}

export function waiting(name) {
  const place = make("div", { className: "answer waiting" }, words(name, "", "Waiting for the answer …"));
  place.querySelector("h3").remove();
  return place;
}

// picture: an element that shows it.
export function showAnswer(place, name, picture, answer, model) {
  const least = leastOf(model);
  const { title, note, said } = least ? phraseMany(answer, least) : phraseOne(answer, model);
  place.className = (least ? answer.labels.length : answer.sure) ? "answer" : "answer unsure";
  place.replaceChildren(picture, words(name, title, note), bars(answer.top, answer.labels, least));
  if (!place.closest("li")?.previousElementSibling) place.scrollIntoView({ block: "nearest" });
  say(visible(`${name}: ${said}`));
}

export function showFailure(place, name, title, why) {
  place.className = "answer failed";
  place.replaceChildren(words(name, title, why));
  say(visible(`${name}: ${title}. ${why}`));
}
