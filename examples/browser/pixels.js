/**
 * Images as the model sees them: Pillow's resize to the byte, as in training. A canvas resizes otherwise in every
 * browser, which would change captions.
 */

const PRECISION = 22; // bits after the point of a weight, as in Pillow's Resample.c

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/**
 * Decode an image file upright, transparency over white, and return its ImageData.
 *
 * Colour profiles are ignored, as in training. Rejects what the browser cannot decode.
 */
export async function decode(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** Resize ImageData as the `preprocessing` of a model's config.json says: bytes [height,width,4]. */
export function resize({ data, width, height }, { fit, interpolation, ...size }) {
  if (!(interpolation in FILTERS) || !["squash", "crop"].includes(fit)) {
    throw new Error(`images are to be fitted by ${fit}, ${interpolation}, which this page cannot do`);
  }
  const scale = Math.min(width / size.width, height / size.height);
  const [wide, high] = fit === "crop" ? [scale * size.width, scale * size.height] : [width, height];
  const across = weights(width, (width - wide) / 2, wide, size.width, FILTERS[interpolation]);
  const down = weights(height, (height - high) / 2, high, size.height, FILTERS[interpolation]);
  const narrow = pass(data, across, height, size.width, 4 * width, 4, 4 * size.width, 4); // [height,size.width,4]
  return pass(narrow, down, size.width, size.height, 4, 4 * size.width, 4, 4 * size.width); // [size.height,size.width,4]
}

/** Normalise bytes [H,W,4] to float32 [3,H,W]. */
export function normalize(bytes, { mean, std }) {
  const many = bytes.length / 4;
  const out = new Float32Array(3 * many);
  for (let channel = 0; channel < 3; channel++) {
    const scale = Math.fround(1 / (255 * std[channel]));
    const shift = Math.fround(mean[channel] / std[channel]);
    for (let at = 0; at < many; at++) {
      out[channel * many + at] = Math.fround(bytes[4 * at + channel] * scale) - shift;
    }
  }
  return out;
}

/** Return, for each of `out` pixels, the first of the `length` pixels that it is made of and their weights. */
function weights(length, origin, extent, out, [support, filter]) {
  const scale = extent / out;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: out }, (_, place) => {
    const center = origin + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support * stretch + 0.5));
    const last = Math.min(length, Math.trunc(center + support * stretch + 0.5));
    const parts = Array.from({ length: last - first }, (_, at) => filter((at + first - center + 0.5) / stretch));
    const sum = parts.reduce((total, part) => total + part, 0);
    return { first, parts: Int32Array.from(parts, (part) => roundHalfOut((part / sum) * 2 ** PRECISION)) };
  });
}

function roundHalfOut(value) {
  return Math.trunc(value + (value < 0 ? -0.5 : 0.5));
}

/**
 * Resize one axis of RGBA bytes: `lines` lines of pixels are each resized to `many` pixels. Lines lie `line` bytes apart
 * in `bytes` and pixels `next`; `outLine` and `outNext` are the same of the result. Alpha is 255.
 */
function pass(bytes, weighted, lines, many, line, next, outLine, outNext) {
  const out = new Uint8ClampedArray(lines * many * 4).fill(255);
  for (let row = 0; row < lines; row++) {
    for (let place = 0; place < many; place++) {
      const { first, parts } = weighted[place];
      let [red, green, blue] = [0, 0, 0];
      for (let at = 0, from = row * line + first * next; at < parts.length; at++, from += next) {
        red += bytes[from] * parts[at];
        green += bytes[from + 1] * parts[at];
        blue += bytes[from + 2] * parts[at];
      }
      const to = row * outLine + place * outNext;
      const half = 1 << (PRECISION - 1);
      out[to] = (red + half) >> PRECISION; // clamped to 0..255 by the array
      out[to + 1] = (green + half) >> PRECISION;
      out[to + 2] = (blue + half) >> PRECISION;
    }
  }
  return out;
}
