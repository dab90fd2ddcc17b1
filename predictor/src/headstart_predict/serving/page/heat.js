// Where a model looked, as report pictures have it: see headstart/assessment/heat.py.
import { make } from "./elements.js";

const SIDE = 320; // pixels of the drawing
const STRENGTH = 0.75; // share of colour where the heat is greatest
// matplotlib's inferno in eight equal steps: it grows lighter throughout.
const INFERNO = [
  [0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84], [228, 90, 49],
  [249, 142, 9], [249, 203, 53], [252, 255, 164],
];

function colour(warmth) {
  const at = warmth * (INFERNO.length - 1), step = Math.min(Math.floor(at), INFERNO.length - 2);
  return INFERNO[step].map((low, k) => low + (at - step) * (INFERNO[step + 1][k] - low));
}

function pixelsOf(source) {
  const context = new OffscreenCanvas(SIDE, SIDE).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, SIDE, SIDE);
  return context.getImageData(0, 0, SIDE, SIDE).data;
}

// Rows of numbers from 0 to 1 as a grey picture, which a canvas can enlarge smoothly.
function asPicture(grid) {
  const image = new ImageData(grid[0].length, grid.length);
  grid.flat().forEach((value, k) => image.data.fill(255 * value, 4 * k, 4 * k + 3).fill(255, 4 * k + 3, 4 * k + 4));
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// Where the heat is: "the upper left", "the middle".
function place(grid) {
  let across = 0, down = 0, sum = 0;
  grid.forEach((row, y) => row.forEach((value, x) => {
    across += value * (x + 0.5) / row.length;
    down += value * (y + 0.5) / grid.length;
    sum += value;
  }));
  if (!sum) return null;
  const name = (share, names) => names[Math.min(Math.floor(3 * share / sum), 2)];
  const words = [name(down, ["upper", "", "lower"]), name(across, ["left", "", "right"])];
  return `the ${words.filter(Boolean).join(" ") || "middle"}`;
}

// The square that the model saw in grey, and the heat on it in colour.
export async function drawHeat({ square, grid, label }, name) {
  const seen = make("img", { src: `data:image/png;base64,${square}` });
  await seen.decode();
  const data = pixelsOf(seen), warm = pixelsOf(asPicture(grid));
  const canvas = make("canvas", { width: SIDE, height: SIDE, role: "img" });
  const image = new ImageData(SIDE, SIDE);
  for (let at = 0; at < data.length; at += 4) {
    const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    const warmth = warm[at] / 255, share = STRENGTH * warmth ** 1.5; // faint heat would tint all
    colour(warmth).forEach((value, k) => { image.data[at + k] = (1 - share) * grey + share * value; });
    image.data[at + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  const where = place(grid);
  const told = where ? `mostly ${where}` : "no part of it matters by itself";
  canvas.ariaLabel = `Where the model looked in ${name} for ${label}: ${told}`;
  return { canvas, told: where ? `Bright: what speaks for ${label}.` : `No part of it matters by itself for ${label}.` };
}
