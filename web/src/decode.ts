/** From an image file, or a camera's frame, to RGBA pixels, upright. */

import { readHeader } from "./headers";
import { decodePng, needsOwnDecoder } from "./png";
import type { Pixels } from "./preprocess";

const MAX_BYTES = 64 * 2 ** 20;
const MAX_PIXELS = 64e6; // 256 MB of RGBA

export interface Decoded {
  pixels: Pixels;
  orientation: number;
  note: string;
}

/**
 * Decode an image and turn it upright by its EXIF orientation, as the Python side does.
 *
 * @throws Error with one sentence for the visitor: too large, or not an image that the browser reads.
 */
export async function decode(file: Blob): Promise<Decoded> {
  if (file.size > MAX_BYTES) {
    throw new Error(`The file has ${Math.ceil(file.size / 2 ** 20)} MB; files of up to 64 MB are read.`);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  const header = readHeader(bytes);
  if (header.width * header.height > MAX_PIXELS) {
    throw new Error(`The image has ${header.width} x ${header.height} pixels; up to 64 million are read.`);
  }
  let pixels: Pixels;
  let note = "";
  try {
    if (!header.complete) throw new Error("the file ends too early");
    if (header.type === "image/png" && needsOwnDecoder(bytes)) {
      pixels = await decodePng(bytes);
    } else {
      const blob = new Blob(header.stored, { type: header.type || file.type });
      pixels = drawn(await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" }));
      if (isTransparent(pixels)) {
        if (isOpaqueKind(header.type, bytes)) throw new Error("rows are missing");
        note = "Transparent pixels: the browser mixes their colours, so that the result may differ from Python's.";
      }
    }
  } catch {
    throw new Error("This file cannot be read as an image: JPEG, PNG, WebP, GIF and BMP files are expected.");
  }
  return { pixels: turn(pixels, header.orientation), orientation: header.orientation, note };
}

/** The pixels of a decoded picture; it is closed. */
export function drawn(bitmap: ImageBitmap): Pixels {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (context === null) throw new Error("no canvas of this size");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, data: context.getImageData(0, 0, width, height).data as Uint8ClampedArray<ArrayBuffer> };
}

/** Kinds of files without transparency: what the decoder leaves transparent there, it could not read. */
function isOpaqueKind(type: string, bytes: Uint8Array): boolean {
  return type === "image/jpeg" || (type === "image/png" && ![4, 6].includes(bytes[25]!));
}

function isTransparent(pixels: Pixels): boolean {
  for (let at = 3; at < pixels.data.length; at += 4) if (pixels.data[at] !== 255) return true;
  return false;
}

/** Turn by an EXIF orientation: 2 and 4 mirror, 3 turns half round, 5 to 8 exchange width and height. */
function turn(pixels: Pixels, orientation: number): Pixels {
  if (orientation === 1) return pixels;
  const { width, height } = pixels;
  const swap = orientation >= 5;
  const [w, h] = swap ? [height, width] : [width, height];
  const from = new Uint32Array(pixels.data.buffer);
  const to = new Uint32Array(w * h);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      let [i, j] = swap ? [y, x] : [x, y]; // column and row in the stored picture
      if (orientation === 2 || orientation === 3 || orientation === 7 || orientation === 8) i = width - 1 - i;
      if (orientation === 3 || orientation === 4 || orientation === 6 || orientation === 7) j = height - 1 - j;
      to[y * w + x] = from[j * width + i]!;
    }
  }
  return { width: w, height: h, data: new Uint8ClampedArray(to.buffer) };
}
