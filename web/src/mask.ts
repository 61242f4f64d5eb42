/** From the scores of a segmenter to the class of every pixel, and to the image under its classes. */

import type { Colour, Mask, Picture } from "./types";

const OPACITY = 0.55; // of a mask over its image, as in Python
const MAX_SHOWN = 2 ** 21; // pixels of the picture; of a larger image, every second or third is shown

/** For each output position: the two input positions, and the share of the second. */
interface Taps {
  low: Int32Array;
  high: Int32Array;
  share: Float64Array;
}

/** PyTorch's bilinear interpolation with pixel centres at halves (`align_corners=False`). */
function taps(inSize: number, outSize: number): Taps {
  const made = { low: new Int32Array(outSize), high: new Int32Array(outSize), share: new Float64Array(outSize) };
  for (let i = 0; i < outSize; i++) {
    const at = Math.max(0, ((i + 0.5) * inSize) / outSize - 0.5);
    const low = Math.min(Math.trunc(at), inSize - 1);
    made.low[i] = low;
    made.high[i] = Math.min(low + 1, inSize - 1);
    made.share[i] = at - low;
  }
  return made;
}

/**
 * Scale scores, (classes, rows, columns), bilinearly to the image and take the class with the largest.
 *
 * Where the same class is the largest at all four of the scores around a pixel, it is the largest between them too, and
 * nothing is computed.
 */
export function maskOf(
  scores: Float32Array,
  [classes, rows, columns]: [number, number, number],
  width: number,
  height: number,
): Mask {
  const plane = rows * columns;
  const best = new Uint8Array(plane); // the first of the largest, as in PyTorch
  for (let i = 0; i < plane; i++) {
    for (let c = 1; c < classes; c++) if (scores[c * plane + i]! > scores[best[i]! * plane + i]!) best[i] = c;
  }
  const across = taps(columns, width);
  const down = taps(rows, height);
  const labels = new Uint8Array(width * height);
  const counts = new Array<number>(classes).fill(0);
  let to = 0;
  for (let y = 0; y < height; y++) {
    const top = down.low[y]! * columns;
    const bottom = down.high[y]! * columns;
    const below = down.share[y]!;
    for (let x = 0; x < width; x++) {
      const left = across.low[x]!;
      const right = across.high[x]!;
      let label = best[top + left]!;
      if (best[top + right] !== label || best[bottom + left] !== label || best[bottom + right] !== label) {
        const beside = across.share[x]!;
        let largest = -Infinity;
        for (let c = 0, at = 0; c < classes; c++, at += plane) {
          const upper = scores[at + top + left]! * (1 - beside) + scores[at + top + right]! * beside;
          const lower = scores[at + bottom + left]! * (1 - beside) + scores[at + bottom + right]! * beside;
          const score = upper * (1 - below) + lower * below;
          if (score > largest) {
            largest = score;
            label = c;
          }
        }
      }
      labels[to++] = label;
      counts[label]!++;
    }
  }
  return { width, height, labels, counts };
}

/** The image under the colours of its classes. */
export function overlay(image: Picture, mask: Mask, colours: Colour[]): Picture {
  const step = Math.ceil(Math.sqrt((image.width * image.height) / MAX_SHOWN));
  const width = Math.ceil(image.width / step);
  const height = Math.ceil(image.height / step);
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 4) {
      const from = y * step * image.width + x * step;
      const colour = colours[mask.labels[from]!]!;
      for (let k = 0; k < 3; k++) data[to + k] = (1 - OPACITY) * image.data[4 * from + k]! + OPACITY * colour[k]!;
    }
  }
  return { width, height, data };
}
