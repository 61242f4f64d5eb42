/** From an image file, or a camera's frame, to RGBA pixels, upright. */

import { readHeader, type Header } from "./headers";
import { decodePng, needsOwnDecoder } from "./png";
import type { Pixels } from "./preprocess";

const MAX_BYTES = 64 * 2 ** 20; // read whole; of a larger file only the header
const MAX_PIXELS = 64e6; // 256 MB of RGBA
const HEADER_BYTES = 2 ** 21; // in which the size of a picture stands, behind the tags of most cameras

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
  const large = file.size > MAX_BYTES;
  const bytes = new Uint8Array(await (large ? file.slice(0, HEADER_BYTES) : file).arrayBuffer());
  const header = readHeader(bytes);
  if (large || header.width * header.height > MAX_PIXELS) return scaledDown(file, header);
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
    throw new Error("This file cannot be read as an image: JPEG, PNG, WebP, AVIF, GIF and BMP files are expected.");
  }
  return { pixels: turn(pixels, header.orientation), orientation: header.orientation, note };
}

/**
 * Decode a picture that is past the limits, at a scale within them: the browser's own decoder may be able to.
 *
 * @throws Error with one sentence where it is not.
 */
async function scaledDown(file: Blob, header: Header): Promise<Decoded> {
  const { width, height } = header;
  const size = width && height ? `${width} x ${height} pixels` : `${Math.ceil(file.size / 2 ** 20)} MB`;
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / Math.max(1, width * height)));
  const [w, h] = [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
  try {
    if (!width || !height) throw new Error("the header does not say how large it is");
    // turned by the browser, which exchanges the sides before it resizes
    const [across, down] = header.orientation >= 5 ? [h, w] : [w, h];
    const pixels = drawn(
      await createImageBitmap(file, {
        imageOrientation: "from-image",
        resizeWidth: across,
        resizeHeight: down,
        resizeQuality: "high",
        colorSpaceConversion: "none",
        premultiplyAlpha: "none",
      }),
    );
    const note =
      `The image has ${size}: the browser scaled it down to ${across} x ${down} first, so that the result may differ ` +
      "from Python's.";
    return { pixels, orientation: header.orientation, note };
  } catch {
    const limit = "up to 64 MB and 64 million pixels are read here, and this browser could not scale it down";
    throw new Error(`The image has ${size}; ${limit}.`);
  }
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
