// What every script here needs.

export const find = (id) => document.getElementById(id);

export function make(kind, settings = {}, ...children) {
  const made = Object.assign(document.createElement(kind), settings);
  made.append(...children);
  return made;
}

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}\u202f%`;

// Text of others with its hidden characters as escapes, as headstart_predict/plain.py has it.
const HIDDEN = /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
export const visible = (text) => text.replace(
  HIDDEN, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);

// A line of the service, as it stands alone.
export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

export const say = (text) => { find("said").textContent = text; };
