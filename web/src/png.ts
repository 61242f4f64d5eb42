/** PNG with transparency or 16 bits, whose stored colours a canvas would change: it multiplies them by alpha. */

import type { Pixels } from "./preprocess";

const SAMPLES: Record<number, number> = { 0: 1, 2: 3, 4: 2, 6: 4 }; // per pixel, by colour type

/** Whether the browser's own decoder would lose stored values; interlaced files are left to it all the same. */
export function needsOwnDecoder(bytes: Uint8Array): boolean {
  const [depth, colour, interlaced] = [bytes[24]!, bytes[25]!, bytes[28]!];
  return interlaced === 0 && depth >= 8 && (depth === 16 || colour === 4 || colour === 6);
}

/** Decode a file that `needsOwnDecoder`: alpha is dropped, of 16 bits the high byte is kept. Throws where it is broken. */
export async function decodePng(bytes: Uint8Array<ArrayBuffer>): Promise<Pixels> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const deep = bytes[24] === 16 ? 2 : 1; // bytes of a sample
  const samples = SAMPLES[bytes[25]!];
  if (samples === undefined) throw new Error("unknown colour type");
  const step = samples * deep;
  const rowLength = width * step;
  const rows = await inflate(bytes, view, (rowLength + 1) * height);
  const data = new Uint8ClampedArray(width * height * 4).fill(255);
  const grey = samples < 3;
  let before: Uint8Array = new Uint8Array(rowLength);
  for (let y = 0; y < height; y++) {
    const from = y * (rowLength + 1);
    const row = rows.subarray(from + 1, from + 1 + rowLength);
    unfilter(rows[from]!, row, before, step);
    for (let x = 0, at = 0, to = y * width * 4; x < width; x++, at += step, to += 4) {
      data[to] = row[at]!;
      data[to + 1] = row[grey ? at : at + deep]!;
      data[to + 2] = row[grey ? at : at + 2 * deep]!;
    }
    before = row;
  }
  return { width, height, data };
}

async function inflate(bytes: Uint8Array<ArrayBuffer>, view: DataView, expected: number): Promise<Uint8Array> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  for (let at = 8; at + 12 <= bytes.length; at += view.getUint32(at) + 12) {
    const idat = view.getUint32(at + 4) === 0x49444154;
    if (idat) parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
  }
  const result = new Uint8Array(expected);
  let length = 0;
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  for (let next = await reader.read(); !next.done && length < expected; next = await reader.read()) {
    const part = next.value.subarray(0, expected - length); // no more than the header promised
    result.set(part, length);
    length += part.length;
  }
  if (length < expected) throw new Error("the file ends too early");
  return result;
}

/** Undo one row's filter in place; `before` is the row above, `step` the bytes of a pixel. */
function unfilter(kind: number, row: Uint8Array, before: Uint8Array, step: number): void {
  for (let i = 0; i < row.length; i++) {
    const left = i < step ? 0 : row[i - step]!;
    const up = before[i]!;
    if (kind === 1) row[i]! += left;
    else if (kind === 2) row[i]! += up;
    else if (kind === 3) row[i]! += (left + up) >> 1;
    else if (kind === 4) row[i]! += paeth(left, up, i < step ? 0 : before[i - step]!);
    else if (kind !== 0) throw new Error("unknown filter");
  }
}

function paeth(left: number, up: number, corner: number): number {
  const estimate = left + up - corner;
  const [a, b, c] = [Math.abs(estimate - left), Math.abs(estimate - up), Math.abs(estimate - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}
