/** PyTorch's interpolation without antialiasing, in float32, rounded to 8 bits: `antialias: false`. */

import type { Raster, Window } from "./resample";

const f = Math.fround;

/** The input positions and float32 weights of one output position. */
type Taps = [position: number, weight: number][];

function linear(inSize: number, outSize: number, at: number): Taps {
  const scale = f(inSize / outSize);
  const real = Math.max(0, f(f(scale * f(at + 0.5)) - 0.5));
  const low = Math.min(Math.trunc(real), inSize - 1);
  const high = Math.min(low + 1, inSize - 1);
  const weight = Math.min(1, f(real - low));
  return [
    [low, f(1 - weight)],
    [high, weight],
  ];
}

function cubic(inSize: number, outSize: number, at: number): Taps {
  const a = -0.75; // PyTorch's; Pillow's is -0.5
  const scale = f(inSize / outSize);
  const real = f(f(scale * f(at + 0.5)) - 0.5);
  const base = Math.floor(real);
  const t = f(real - base);
  const near = (x: number): number => f(f(f(f(f(f(a + 2) * x) - f(a + 3)) * x) * x) + 1);
  const far = (x: number): number => f(f(f(f(f(f(a * x) - f(5 * a)) * x) + f(8 * a)) * x) - f(4 * a));
  const weights = [far(f(t + 1)), near(t), near(f(1 - t)), far(f(f(1 - t) + 1))];
  return weights.map((weight, k) => [Math.min(inSize - 1, Math.max(0, base - 1 + k)), weight]);
}

/** Round half to even, as `torch.round` does. */
export function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Resize to `width` x `height` and cut the window out: -> height x width x channels, interleaved. */
export function interpolate(
  image: Raster,
  width: number,
  height: number,
  kind: "bilinear" | "bicubic",
  window: Window,
): Uint8Array<ArrayBuffer> {
  const find = kind === "bilinear" ? linear : cubic;
  const columns = Array.from({ length: window.width }, (_, x) => find(image.width, width, window.left + x));
  const rows = Array.from({ length: window.height }, (_, y) => find(image.height, height, window.top + y));
  const result = new Uint8Array(window.height * window.width * image.channels);
  let to = 0;
  for (const row of rows) {
    for (const column of columns) {
      for (let c = 0; c < image.channels; c++) {
        let sum = 0;
        for (const [y, down] of row) {
          let line = 0;
          for (const [x, across] of column) {
            line = f(line + f(image.data[(y * image.width + x) * image.stride + c]! * across));
          }
          sum = f(sum + f(line * down));
        }
        result[to++] = Math.min(255, Math.max(0, roundHalfToEven(sum)));
      }
    }
  }
  return result;
}
