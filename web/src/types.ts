/** What `networks.json` says, and what the page and its worker say to each other. */

/** The fields of `compactnets.data.Preprocess`. */
export interface Preprocess {
  size: number | [height: number, width: number]; // a number: the side of a square
  resize: number | null;
  interpolation: "bilinear" | "bicubic" | "nearest";
  antialias: boolean;
  mean: number[];
  std: number[];
}

export type Colour = [red: number, green: number, blue: number];

/** How the exported network was compared with PyTorch before it was put here. */
export interface Verification {
  ran: boolean;
  where: string; // "in ONNX Runtime" and the like
  images: string;
  tolerance: number;
  max_difference: number | null; // of two logits
  relative_difference: number | null; // the same, as a share of the largest logit
}

/** A file beside the page. */
export interface Stored {
  file: string;
  sha256: string;
  bytes: number;
}

/** The WebAssembly of a network; `name` is that of its functions. */
export interface Code extends Stored {
  name: string;
}

/** A network; its file is the weights with planar, and all of it with ONNX. */
export interface Network extends Stored {
  id: string;
  name: string;
  engine: "planar" | "onnx";
  code?: Code; // planar only
  macs: number; // multiply-adds for one image
  params: number;
  precision: string;
  trained: boolean;
  data?: string; // what it was trained on; "" where its record does not say
  preprocess: Preprocess;
  vertical_first: boolean; // the order of passes in the Pillow that the network was checked with
  task: string;
  map?: [height: number, width: number]; // of scores for every pixel; without it, one score a class
  colours?: Colour[]; // of the classes, with a map only
  threshold?: number; // of probabilities, where an image may have several classes or none
  class_names: string[];
  class_labels: string[];
  source: string;
  license: string;
  verification: Verification;
}

export interface Example {
  file: string;
  name: string;
  attribution: string;
  source: string; // where its author shows it
}

export interface Catalogue {
  version: number;
  compactnets: string;
  networks: Network[];
  runtime_bytes?: number; // of ONNX Runtime's WebAssembly; 0 where no network needs it
  runtime_files?: string[]; // ONNX Runtime, and what calls it
  examples: Example[];
}

/** What the worker knows of the image it holds. */
export interface ImageFacts {
  width: number;
  height: number;
  orientation: number; // EXIF's: 1 is upright
  note: string; // where the pixels may differ from those that Python reads; empty where they do not
  decodeMs: number;
}

/** RGBA pixels to be shown. */
export interface Picture {
  width: number;
  height: number;
  data: Uint8ClampedArray<ArrayBuffer>;
}

/** The class of every pixel of an image. */
export interface Mask {
  width: number;
  height: number;
  labels: Uint8Array<ArrayBuffer>; // row by row
  counts: number[]; // pixels of each class
}

/** One network's answer for one image. */
export interface Answer {
  id: string;
  logits: Float32Array<ArrayBuffer>; // with a map, of class after class
  picture: Picture; // the crop that the network was given; with a map, the image under its mask
  mask?: Mask; // with a map
  preprocessMs: number;
  runMs: number[]; // after the warm-up
  drawMs?: number; // with a map: from the scores to the mask and the picture
}

/** What ran a network. */
export interface EngineFacts {
  name: "planar" | "onnxruntime-web";
  version: string; // of ONNX Runtime; empty otherwise
  threads: number;
  bytes: number; // of the WebAssembly
}

/** How far a download is, in bytes; sent by the worker while it loads. */
export interface Progress {
  what: string; // a network's name, or "ONNX Runtime"
  loaded: number;
  total: number; // 0 where it is not known
}

export type Request =
  | { kind: "load"; network: Network; base: string; runtimeBytes: number }
  | { kind: "image"; file: Blob }
  | { kind: "frame"; frame: ImageBitmap; ids: string[] }
  | { kind: "run"; ids: string[] };

export interface Replies {
  load: EngineFacts;
  image: ImageFacts;
  frame: Answer[];
  run: Answer[];
}

/** A network in an engine. */
export interface Session {
  network: Network;
  engine: EngineFacts;
  warmUpMs: number; // how long it has to run before its time is its usual one
  place: (tensor: Float32Array<ArrayBuffer>) => () => Promise<Float32Array<ArrayBuffer>>; // takes an image; then runs
}
