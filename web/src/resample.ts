/** Pillow's resampling of 8-bit images: two passes, the filter widened when shrinking, in its fixed-point arithmetic. */

/** Interleaved 8-bit pixels: the channels that count come first in every group of `stride` numbers. */
export interface Raster {
  width: number;
  height: number;
  left: number; // where it lies in the image, when it is a part
  top: number;
  stride: number;
  channels: number;
  data: Uint8ClampedArray<ArrayBuffer> | Uint8Array<ArrayBuffer>;
}

/** The part of the resized image that is wanted. */
export interface Window {
  left: number;
  top: number;
  width: number;
  height: number;
}

export interface Filter {
  support: number;
  weight: (x: number) => number;
}

export const FILTERS: Record<"bilinear" | "bicubic", Filter> = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

const BITS = 22; // Pillow's PRECISION_BITS: 32 - 8 - 2
const HALF = 1 << (BITS - 1);

function cubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/** For each output position from `first`: where its input begins, how many there are, and their weights x 2^22. */
interface Taps {
  start: Int32Array;
  count: Int32Array;
  weights: Int32Array;
  most: number;
}

function taps(inSize: number, outSize: number, filter: Filter, first: number, length: number): Taps {
  const scale = inSize / outSize;
  const widened = Math.max(scale, 1);
  const support = filter.support * widened;
  const most = Math.ceil(support) * 2 + 1;
  const start = new Int32Array(length);
  const count = new Int32Array(length);
  const weights = new Int32Array(length * most);
  const row = new Float64Array(most);
  for (let i = 0; i < length; i++) {
    const centre = (first + i + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(inSize, Math.trunc(centre + support + 0.5));
    let total = 0;
    for (let x = begin; x < end; x++) {
      const weight = filter.weight((x - centre + 0.5) * (1 / widened));
      row[x - begin] = weight;
      total += weight;
    }
    start[i] = begin;
    count[i] = end - begin;
    for (let k = 0; k < end - begin; k++) {
      const weight = total === 0 ? row[k]! : row[k]! / total;
      weights[i * most + k] = Math.trunc((weight < 0 ? -0.5 : 0.5) + weight * (1 << BITS));
    }
  }
  return { start, count, weights, most };
}

const clip = (sum: number): number => {
  const level = sum >> BITS;
  return level < 0 ? 0 : level > 255 ? 255 : level;
};

/**
 * Resize to `width` x `height` and cut the window out: -> height x width x channels, interleaved.
 *
 * @param verticalFirst begin with the vertical pass where it takes away much more than the horizontal one, as Pillow
 *   does since version 13. The order shows, because the first pass is rounded to 8 bits.
 */
export function resample(
  image: Raster,
  width: number,
  height: number,
  filter: Filter,
  window: Window,
  verticalFirst: boolean,
): Uint8Array<ArrayBuffer> {
  const columns = taps(image.width, width, filter, window.left, window.width);
  const rows = taps(image.height, height, filter, window.top, window.height);
  const shrinks = image.height > height && image.height - height > 2 * (image.width - width);
  if (verticalFirst && shrinks) return across(down(image, rows, reach(columns)), columns, [0, window.height]).data;
  return down(across(image, columns, reach(rows)), rows, [0, window.width]).data;
}

type Range = [first: number, end: number];

/** The positions that the taps read. */
function reach(of: Taps): Range {
  const last = of.start.length - 1;
  return [of.start[0]!, of.start[last]! + of.count[last]!];
}

type Pass = Raster & { data: Uint8Array<ArrayBuffer> };

/** The horizontal pass over some rows of the image. */
function across(image: Raster, columns: Taps, [first, end]: Range): Pass {
  const { stride, channels, data } = image;
  const width = columns.start.length;
  const result = new Uint8Array((end - first) * width * channels);
  let to = 0;
  for (let y = first; y < end; y++) {
    for (let x = 0; x < width; x++) {
      const begin = x * columns.most;
      const stop = begin + columns.count[x]!;
      const from = (y * image.width + columns.start[x]! - image.left) * stride;
      for (let c = 0; c < channels; c++) {
        let sum = HALF;
        for (let k = begin, at = from + c; k < stop; k++, at += stride) {
          sum = (sum + Math.imul(data[at]!, columns.weights[k]!)) | 0;
        }
        result[to++] = clip(sum);
      }
    }
  }
  return { width, height: end - first, left: 0, top: first, stride: channels, channels, data: result };
}

/** The vertical pass over some columns of the image. */
function down(image: Raster, rows: Taps, [first, end]: Range): Pass {
  const { stride, channels, data } = image;
  const height = rows.start.length;
  const step = image.width * stride;
  const result = new Uint8Array(height * (end - first) * channels);
  let to = 0;
  for (let y = 0; y < height; y++) {
    const begin = y * rows.most;
    const stop = begin + rows.count[y]!;
    const row = (rows.start[y]! - image.top) * step;
    for (let x = first; x < end; x++) {
      for (let c = 0; c < channels; c++) {
        let sum = HALF;
        for (let k = begin, at = row + x * stride + c; k < stop; k++, at += step) {
          sum = (sum + Math.imul(data[at]!, rows.weights[k]!)) | 0;
        }
        result[to++] = clip(sum);
      }
    }
  }
  return { width: end - first, height, left: first, top: 0, stride: channels, channels, data: result };
}

/** Pillow's nearest neighbour, which adds the step up, as its affine transform does. */
export function nearest(image: Raster, width: number, height: number, window: Window): Uint8Array<ArrayBuffer> {
  const columns = nearestPositions(image.width, width, window.left, window.width);
  const rows = nearestPositions(image.height, height, window.top, window.height);
  const result = new Uint8Array(window.height * window.width * image.channels);
  let to = 0;
  for (let y = 0; y < window.height; y++) {
    for (let x = 0; x < window.width; x++) {
      const from = (rows[y]! * image.width + columns[x]!) * image.stride;
      for (let c = 0; c < image.channels; c++) result[to++] = image.data[from + c]!;
    }
  }
  return result;
}

function nearestPositions(inSize: number, outSize: number, first: number, length: number): Int32Array {
  const step = inSize / outSize;
  const positions = new Int32Array(length);
  let at = step * 0.5;
  for (let i = 0; i < first + length; i++) {
    if (i >= first) positions[i - first] = Math.min(inSize - 1, Math.trunc(at));
    at += step;
  }
  return positions;
}
