// A picture as the model's pixels: what headstart_predict/decode.py makes of the same file.

const ONE = 2 ** 22; // Pillow's weights are whole numbers, of which so many are 1

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

function resized({ pixels, short }, side) {
  return short === side ? pixels : product(product(pixels, short, short, side), side, short, side);
}

// RGB pixels of a square, each the mean of step x step. Beyond the picture its last ones go on.
function means({ data, width, height }, short, step) {
  const out = new Uint8ClampedArray(short * short * 3), count = step * step;
  for (let y = 0, place = 0; y < short; y++) {
    for (let x = 0; x < short; x++) {
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
// are means of pixels, as long as twice the model's side is left.
async function decodedStep(source, short, side) {
  if (!(source instanceof Blob)) return 1;
  const [first, second] = new Uint8Array(await source.slice(0, 2).arrayBuffer());
  if (first !== 0xff || second !== 0xd8) return 1;
  return [8, 4, 2].find((step) => Math.floor(short / (2 * side)) >= step) ?? 1;
}

// The upright centre square on white, of a file or of anything else that can be drawn.
async function centreSquare(source, side) {
  const bitmap = await createImageBitmap(source, {
    imageOrientation: "from-image", colorSpaceConversion: "none", // Pillow heeds no profile either
  });
  const { width, height } = bitmap;
  const step = await decodedStep(source, Math.min(width, height), side);
  const [wide, high] = [Math.ceil(width / step), Math.ceil(height / step)];
  const short = Math.min(wide, high);
  const left = Math.floor((wide - short) / 2) * step, top = Math.floor((high - short) / 2) * step;
  const canvas = new OffscreenCanvas(
    Math.min(short * step, width - left), Math.min(short * step, height - top));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, -left, -top);
  bitmap.close();
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  return { canvas, short, pixels: means(image, short, step) };
}
