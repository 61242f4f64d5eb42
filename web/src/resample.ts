/** Pillow's resampling of 8-bit images: two passes, the filter widened when shrinking, in its fixed-point arithmetic. */

/** Interleaved 8-bit pixels: the channels that count come first in every group of `stride` numbers. */
export interface Raster {
  width: number;
  height: number;
  stride: number;
  channels: number;
  data: Uint8ClampedArray<ArrayBuffer> | Uint8Array<ArrayBuffer>;
}

/** The part of the resized image that is wanted. */
export interface Window {
  left: number;
  top: number;
  size: number;
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

/** Resize to `width` x `height` and cut the window out: -> size x size x channels, interleaved. */
export function resample(
  image: Raster,
  width: number,
  height: number,
  filter: Filter,
  window: Window,
): Uint8Array<ArrayBuffer> {
  const { stride, channels, data } = image;
  const { size } = window;
  const across = taps(image.width, width, filter, window.left, size);
  const down = taps(image.height, height, filter, window.top, size);
  const firstRow = down.start[0]!;
  const lastRow = down.start[size - 1]! + down.count[size - 1]!;
  const middle = new Uint8Array((lastRow - firstRow) * size * channels);
  for (let y = firstRow; y < lastRow; y++) {
    for (let x = 0; x < size; x++) {
      const from = (y * image.width + across.start[x]!) * stride;
      const to = ((y - firstRow) * size + x) * channels;
      for (let c = 0; c < channels; c++) {
        let sum = 1 << (BITS - 1);
        for (let k = 0; k < across.count[x]!; k++) {
          sum += data[from + k * stride + c]! * across.weights[x * across.most + k]!;
        }
        middle[to + c] = clip(sum);
      }
    }
  }
  const result = new Uint8Array(size * size * channels);
  const rowLength = size * channels;
  for (let y = 0; y < size; y++) {
    const from = (down.start[y]! - firstRow) * rowLength;
    for (let x = 0; x < rowLength; x++) {
      let sum = 1 << (BITS - 1);
      for (let k = 0; k < down.count[y]!; k++) {
        sum += middle[from + k * rowLength + x]! * down.weights[y * down.most + k]!;
      }
      result[y * rowLength + x] = clip(sum);
    }
  }
  return result;
}

/** Pillow's nearest neighbour, which adds the step up, as its affine transform does. */
export function nearest(image: Raster, width: number, height: number, window: Window): Uint8Array<ArrayBuffer> {
  const columns = nearestPositions(image.width, width, window.left, window.size);
  const rows = nearestPositions(image.height, height, window.top, window.size);
  const { size } = window;
  const result = new Uint8Array(size * size * image.channels);
  let to = 0;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
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
