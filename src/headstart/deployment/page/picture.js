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

function withoutAlpha(pixels) {
  const out = new Uint8ClampedArray((pixels.length / 4) * 3);
  for (let i = 0, j = 0; i < pixels.length; i += 4) {
    out[j++] = pixels[i];
    out[j++] = pixels[i + 1];
    out[j++] = pixels[i + 2];
  }
  return out;
}

function resized(pixels, short, side) {
  return short === side ? pixels : product(product(pixels, short, short, side), side, short, side);
}

// The upright centre square on white, of a file or of anything else that can be drawn.
async function centreSquare(source) {
  const bitmap = await createImageBitmap(source, {
    imageOrientation: "from-image", colorSpaceConversion: "none", // Pillow heeds no profile either
  });
  const short = Math.min(bitmap.width, bitmap.height);
  const canvas = new OffscreenCanvas(short, short);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, short, short);
  const left = Math.floor((bitmap.width - short) / 2), top = Math.floor((bitmap.height - short) / 2);
  context.drawImage(bitmap, -left, -top);
  bitmap.close();
  return { canvas, short, pixels: withoutAlpha(context.getImageData(0, 0, short, short).data) };
}
