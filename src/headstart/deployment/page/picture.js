// A picture as the model's pixels: what headstart_predict/decode.py makes of the same file.

const ONE = 2 ** 22; // Pillow's weights are whole numbers, of which so many are 1
export const PADDING = [124, 116, 104]; // that of framing.py

function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

// For each of `to` pixels the first of `from` pixels that it is made of, and the weights from there.
function filter(from, to) {
  const scale = from / to, stretch = Math.max(scale, 1), reach = 2 * stretch;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), from);
    const raw = [];
    for (let j = first; j < end; j++) raw.push(bicubic((j - centre + 0.5) / stretch));
    const sum = raw.reduce((a, b) => a + b, 0);
    return { first, weights: raw.map((w) => Math.trunc((w / sum) * ONE + Math.sign(w / sum) / 2)) };
  });
}

// The product of (rows, from) RGB pixels and the filter's matrix, rounded and turned: (to, rows).
// Twice, that is Pillow's two passes.
function product(pixels, rows, from, to) {
  const out = new Uint8ClampedArray(to * rows * 3), columns = filter(from, to);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < to; column++) {
      const { first, weights } = columns[column];
      let red = ONE / 2, green = ONE / 2, blue = ONE / 2;
      for (let k = 0, at = (row * from + first) * 3; k < weights.length; k++, at += 3) {
        red += weights[k] * pixels[at];
        green += weights[k] * pixels[at + 1];
        blue += weights[k] * pixels[at + 2];
      }
      const place = (column * rows + row) * 3;
      out[place] = red >> 22;
      out[place + 1] = green >> 22;
      out[place + 2] = blue >> 22;
    }
  }
  return out;
}

// Pixels as columns in place of rows: (height, width) to (width, height).
function turned(pixels, width, height) {
  const out = new Uint8ClampedArray(pixels.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let k = 0; k < 3; k++) out[(x * height + y) * 3 + k] = pixels[(y * width + x) * 3 + k];
    }
  }
  return out;
}

// The long side first, as squares.py.
function shrunk(pixels, [width, height], [across, down]) {
  if (width === across && height === down) return pixels;
  if (height > width) {
    const low = product(turned(pixels, width, height), width, height, down);
    return turned(product(low, down, width, across), down, across);
  }
  return product(product(pixels, height, width, across), across, height, down);
}

// What of a picture goes onto the square, and the width and height that it gets: framing.py's place.
function place(width, height, side, framing) {
  const short = Math.min(width, height), long = Math.max(width, height);
  if (framing === "crop") {
    const left = Math.floor((width - short) / 2), top = Math.floor((height - short) / 2);
    return { left, top, part: [short, short], size: [side, side] };
  }
  const padded = (n) => Math.max(Math.floor((2 * n * side + long) / (2 * long)), 1);
  const size = framing === "pad" ? [padded(width), padded(height)] : [side, side];
  return { left: 0, top: 0, part: [width, height], size };
}

export function resized({ pixels, part, size }, side) {
  const [across, down] = size, small = shrunk(pixels, part, size);
  if (across === side && down === side) return small;
  const square = new Uint8ClampedArray(side * side * 3);
  for (let at = 0; at < square.length; at += 3) square.set(PADDING, at);
  const left = Math.floor((side - across) / 2), top = Math.floor((side - down) / 2);
  for (let y = 0; y < down; y++) {
    square.set(small.subarray(y * across * 3, (y + 1) * across * 3), ((top + y) * side + left) * 3);
  }
  return square;
}

// RGB pixels of a part, each the mean of step x step. Beyond the picture its last ones go on.
function means({ data, width, height }, [across, down], step) {
  const out = new Uint8ClampedArray(across * down * 3), count = step * step;
  for (let y = 0, place = 0; y < down; y++) {
    for (let x = 0; x < across; x++) {
      let red = 0, green = 0, blue = 0;
      for (let i = y * step; i < (y + 1) * step; i++) {
        for (let j = x * step; j < (x + 1) * step; j++) {
          const at = (Math.min(i, height - 1) * width + Math.min(j, width - 1)) * 4;
          red += data[at];
          green += data[at + 1];
          blue += data[at + 2];
        }
      }
      out[place++] = red / count;
      out[place++] = green / count;
      out[place++] = blue / count;
    }
  }
  return out;
}

// By how much Pillow has a picture decoded smaller: of JPEG an eighth, a quarter or a half, which
// are means of pixels, as long as twice what is kept of the deciding side is left.
async function decodedStep(source, width, height, side, framing) {
  if (!(source instanceof Blob)) return 1;
  const [first, second] = new Uint8Array(await source.slice(0, 2).arrayBuffer());
  if (first !== 0xff || second !== 0xd8) return 1;
  const short = Math.min(width, height);
  const deciding = framing === "pad" ? Math.max(width, height) : short;
  const enough = Math.min(Math.floor(deciding / (2 * side)), short);
  return [8, 4, 2].find((step) => enough >= step) ?? 1;
}

// The upright picture on white, or the part of it that becomes the square, of a file or of anything
// else that can be drawn.
export async function framed(source, side, framing) {
  const bitmap = await createImageBitmap(source, {
    imageOrientation: "from-image", colorSpaceConversion: "none", // Pillow heeds no profile either
  });
  const { width, height } = bitmap;
  const step = await decodedStep(source, width, height, side, framing);
  const placed = place(Math.ceil(width / step), Math.ceil(height / step), side, framing);
  const left = placed.left * step, top = placed.top * step, { part, size } = placed;
  const canvas = new OffscreenCanvas(
    Math.min(part[0] * step, width - left), Math.min(part[1] * step, height - top));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, -left, -top);
  bitmap.close();
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  return { canvas, part, size, pixels: means(image, part, step) };
}
