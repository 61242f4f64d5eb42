/** `compactnets.data.Preprocess` in the browser: the same pixels, and the same float32 numbers. */

import { interpolate, roundHalfToEven } from "./interpolate";
import { FILTERS, nearest, resample, type Raster, type Window } from "./resample";
import type { Picture, Preprocess } from "./types";

/** Decoded RGBA pixels. */
export type Pixels = Picture;

export interface Prepared {
  tensor: Float32Array<ArrayBuffer>; // channels x height x width
  input: Picture; // the same before normalisation
}

const MAX_PIXELS = 2 ** 27; // after resizing the shorter edge, as in Python

/**
 * Resize, crop and normalise.
 *
 * @param verticalFirst see `resample`.
 * @throws Error where the image is too narrow.
 */
export function prepare(pixels: Pixels, how: Preprocess, verticalFirst: boolean): Prepared {
  const channels = how.mean.length;
  const image: Raster = channels === 1 ? toGrey(pixels) : { ...pixels, left: 0, top: 0, stride: 4, channels: 3 };
  const levels = geometry(image, how, verticalFirst);
  const [height, width] = sides(how);
  return { tensor: normalise(levels, how), input: { width, height, data: toRgba(levels, channels) } };
}

/** Height and width of the network's input. */
export function sides({ size }: Preprocess): [height: number, width: number] {
  return typeof size === "number" ? [size, size] : size;
}

/** Width and height after the resize; the longer edge is rounded down. */
export function target(width: number, height: number, how: Preprocess): [number, number] {
  const [inputHeight, inputWidth] = sides(how);
  if (how.resize === null) return [inputWidth, inputHeight];
  const shorter = Math.min(width, height);
  const longer = Math.max(width, height);
  if (longer * how.resize ** 2 > MAX_PIXELS * shorter) {
    throw new Error(
      `An image of ${width} x ${height} pixels is too narrow to resize its shorter edge to ${how.resize}.`,
    );
  }
  const resized = Math.trunc((how.resize * longer) / shorter);
  return width <= height ? [how.resize, resized] : [resized, how.resize];
}

function geometry(image: Raster, how: Preprocess, verticalFirst: boolean): Uint8Array<ArrayBuffer> {
  const [width, height] = target(image.width, image.height, how);
  const [inputHeight, inputWidth] = sides(how);
  const window: Window = {
    left: roundHalfToEven((width - inputWidth) / 2),
    top: roundHalfToEven((height - inputHeight) / 2),
    width: inputWidth,
    height: inputHeight,
  };
  // an image that has the size already goes through nearest, which copies it
  const fits = image.width === width && image.height === height;
  if (fits || how.interpolation === "nearest") return nearest(image, width, height, window);
  if (how.antialias) return resample(image, width, height, FILTERS[how.interpolation], window, verticalFirst);
  return interpolate(image, width, height, how.interpolation, window);
}

/** ITU-R 601 luma in Pillow's fixed point. */
function toGrey(pixels: Pixels): Raster {
  const { width, height, data } = pixels;
  const grey = new Uint8Array(width * height);
  for (let i = 0, from = 0; i < grey.length; i++, from += 4) {
    grey[i] = (data[from]! * 19595 + data[from + 1]! * 38470 + data[from + 2]! * 7471 + 0x8000) >> 16;
  }
  return { width, height, left: 0, top: 0, stride: 1, channels: 1, data: grey };
}

/** Scale to [0, 1], subtract the mean, divide by the deviation; every step rounded to float32, as PyTorch does. */
function normalise(levels: Uint8Array, how: Preprocess): Float32Array<ArrayBuffer> {
  const channels = how.mean.length;
  const plane = levels.length / channels;
  const tensor = new Float32Array(channels * plane);
  const scale = Math.fround(1 / 255);
  for (let c = 0; c < channels; c++) {
    const mean = Math.fround(how.mean[c]!);
    const std = Math.fround(how.std[c]!);
    const table = Float32Array.from({ length: 256 }, (_, level) =>
      Math.fround(Math.fround(Math.fround(level * scale) - mean) / std),
    );
    for (let i = 0; i < plane; i++) tensor[c * plane + i] = table[levels[i * channels + c]!]!;
  }
  return tensor;
}

function toRgba(levels: Uint8Array, channels: number): Uint8ClampedArray<ArrayBuffer> {
  const count = levels.length / channels;
  const rgba = new Uint8ClampedArray(count * 4).fill(255);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) rgba[i * 4 + c] = levels[i * channels + (channels === 1 ? 0 : c)]!;
  }
  return rgba;
}
