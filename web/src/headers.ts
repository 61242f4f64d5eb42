/** What an image file says before it is decoded: its size, its EXIF orientation, and a copy without the latter.
 *
 * Browsers rotate an image by its EXIF orientation, but not in every kind of file, and they differ. So the orientation is
 * taken out of the file before the browser sees it, and the page turns the pixels itself.
 */

export interface Header {
  type: string; // MIME type by the first bytes, "" where they are unknown
  width: number; // 0 where the header does not tell
  height: number;
  orientation: number; // 1 to 8; 1 where there is none
  complete: boolean; // false where the file ends too early: browsers show the part that they have
  stored: BlobPart[]; // the file without orientation, colour profile and other ancillary parts
}

const ASCII = new TextDecoder("latin1");

export function readHeader(bytes: Uint8Array<ArrayBuffer>): Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (from: number, length: number) => ASCII.decode(bytes.subarray(from, from + length));
  try {
    if (bytes[0] === 0xff && bytes[1] === 0xd8) return readJpeg(bytes, view);
    if (text(1, 3) === "PNG") return readPng(bytes, view, text);
    if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") return readWebp(bytes, view, text);
    if (text(0, 3) === "GIF") {
      return plain("image/gif", bytes, view.getUint16(6, true), view.getUint16(8, true));
    }
    if (text(0, 2) === "BM") {
      return plain("image/bmp", bytes, view.getInt32(18, true), Math.abs(view.getInt32(22, true)));
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // a file that ends inside its header: the decoder will say so
  }
  return plain("", bytes, 0, 0);
}

function plain(type: string, bytes: Uint8Array<ArrayBuffer>, width: number, height: number): Header {
  return { type, width, height, orientation: 1, complete: true, stored: [bytes] };
}

function readJpeg(bytes: Uint8Array<ArrayBuffer>, view: DataView): Header {
  const header = plain("image/jpeg", bytes, 0, 0);
  header.stored = [bytes.subarray(0, 2)];
  let [exif, xmp] = [0, 0];
  let at = 2;
  while (bytes[at] === 0xff) {
    const marker = bytes[at + 1]!;
    if (marker === 0xff) {
      at += 1; // fill bytes
      continue;
    }
    if (marker === 0xda) break; // the picture itself
    const length = view.getUint16(at + 2) + 2;
    const segment = bytes.subarray(at, at + length);
    const frame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (frame) {
      header.height = view.getUint16(at + 5);
      header.width = view.getUint16(at + 7);
    }
    const profile = marker === 0xe2; // a colour profile, which Python does not apply either
    if (marker === 0xe1) {
      if (ASCII.decode(segment.subarray(4, 10)) === "Exif\0\0") exif = orientation(segment.subarray(10));
      else xmp ||= orientationInXmp(segment);
    } else if (!profile) {
      header.stored.push(segment);
    }
    at += length;
  }
  header.stored.push(bytes.subarray(at));
  let end = bytes.length - 1; // cameras write more behind the end of the picture
  while (end > at && !(bytes[end - 1] === 0xff && bytes[end] === 0xd9)) end--;
  header.complete = end > at;
  header.orientation = exif || xmp || 1;
  return header;
}

/** PNG: only the parts that make the pixels are kept; colours below transparent pixels appear without tRNS. */
function readPng(bytes: Uint8Array<ArrayBuffer>, view: DataView, text: (from: number, length: number) => string): Header {
  const header = plain("image/png", bytes, view.getUint32(16), view.getUint32(20));
  header.stored = [bytes.subarray(0, 8)];
  header.complete = false;
  let [exif, xmp] = [0, 0];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at) + 12;
    const kind = text(at + 4, 4);
    if (kind === "IEND") header.complete = true;
    if (kind === "eXIf") exif = orientation(bytes.subarray(at + 8, at + length - 4));
    if (kind === "iTXt") xmp ||= orientationInXmp(bytes.subarray(at + 8, at + length - 4));
    if (["IHDR", "PLTE", "IDAT", "IEND"].includes(kind)) header.stored.push(bytes.subarray(at, at + length));
    at += length;
  }
  header.orientation = exif || xmp || 1;
  return header;
}

function readWebp(bytes: Uint8Array<ArrayBuffer>, view: DataView, text: (from: number, length: number) => string): Header {
  const header = plain("image/webp", bytes, 0, 0);
  header.complete = view.getUint32(4, true) + 8 <= bytes.length;
  if (text(12, 4) === "VP8X") {
    header.width = 1 + (view.getUint32(24, true) & 0xffffff);
    header.height = 1 + (view.getUint32(26, true) >>> 8);
    let [exif, xmp] = [0, 0];
    for (let at = 12; at + 8 <= bytes.length; ) {
      const length = view.getUint32(at + 4, true);
      if (text(at, 4) === "XMP ") xmp = orientationInXmp(bytes.subarray(at + 8, at + 8 + length));
      if (text(at, 4) === "EXIF") {
        const start = text(at + 8, 6) === "Exif\0\0" ? at + 14 : at + 8;
        exif = orientation(bytes.subarray(start, at + 8 + length));
        const copy = bytes.slice();
        copy.set([0x4a, 0x55, 0x4e, 0x4b], at); // "JUNK": an unknown chunk is skipped
        header.stored = [copy];
      }
      at += 8 + length + (length & 1);
    }
    header.orientation = exif || xmp || 1;
  } else if (text(12, 4) === "VP8 ") {
    header.width = view.getUint16(26, true) & 0x3fff;
    header.height = view.getUint16(28, true) & 0x3fff;
  } else if (text(12, 4) === "VP8L") {
    const bits = view.getUint32(21, true);
    header.width = 1 + (bits & 0x3fff);
    header.height = 1 + ((bits >>> 14) & 0x3fff);
  }
  return header;
}

/** The orientation in a packet of XMP, where some programs write it instead; 0 where there is none. */
function orientationInXmp(packet: Uint8Array<ArrayBuffer>): number {
  const found = /tiff:Orientation(?:="|>)([1-8])/.exec(ASCII.decode(packet));
  return found ? Number(found[1]) : 0;
}

/** The orientation in a TIFF block; 0 where it has no such tag, 1 where the tag's value is none. */
function orientation(tiff: Uint8Array<ArrayBuffer>): number {
  if (tiff.length < 10) return 0;
  const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.byteLength);
  const little = view.getUint16(0) === 0x4949;
  const first = view.getUint32(4, little);
  if (first + 2 > tiff.length) return 0;
  const entries = view.getUint16(first, little);
  for (let i = 0; i < entries && first + 2 + 12 * i + 12 <= tiff.length; i++) {
    const entry = first + 2 + 12 * i;
    if (view.getUint16(entry, little) === 0x0112) {
      const value = view.getUint16(entry + 8, little);
      return value >= 1 && value <= 8 ? value : 1;
    }
  }
  return 0;
}
