/** Networks in the planar engine: WebAssembly of their own, made by `compactnets web`, which imports nothing. */

import { fetchFile, type Told } from "./models";
import { sides } from "./preprocess";
import type { Network, Session } from "./types";

const ALIGNMENT = 64;
const PAGE = 65536; // bytes by which memory grows
// browsers first run a quick translation of new code, and replace it with a better one function by function
const WARM_UP_MS = 200;

interface Exports {
  memory: WebAssembly.Memory;
  __heap_base: WebAssembly.Global<"i32">; // where free memory begins
  arenaBytes: () => number;
  run: (weights: number, arena: number, image: number, logits: number) => void;
}

export async function open(network: Network, base: string, told: Told): Promise<Session> {
  const { code } = network;
  if (!code) throw new Error(`networks.json does not say the code of ${network.name}.`);
  const [program, weights] = await Promise.all([
    fetchFile(code, base),
    fetchFile(network, base, (loaded) => told(network.name, loaded, network.bytes)),
  ]);
  let exports: Exports;
  try {
    exports = find((await WebAssembly.instantiate(program, {})).instance, code.name);
  } catch (error) {
    throw new Error(`${network.name} cannot be loaded: ${error instanceof Error ? error.message : error}`);
  }
  const [height, width] = sides(network.preprocess);
  const pixels = network.preprocess.mean.length * height * width;
  const [rows, columns] = network.map ?? [1, 1];
  const outputs = network.class_names.length * rows * columns;
  const { memory, run } = exports;
  let end = exports.__heap_base.value;
  const place = (bytes: number): number => {
    const start = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    end = start + bytes;
    return start;
  };
  const at = place(weights.byteLength);
  const arena = place(exports.arenaBytes());
  const image = place(4 * pixels);
  const logits = place(4 * outputs);
  try {
    memory.grow(Math.max(0, Math.ceil((end - memory.buffer.byteLength) / PAGE)));
  } catch {
    throw new Error(`${network.name} cannot be loaded: this device has no ${end} bytes of memory left for it.`);
  }
  new Uint8Array(memory.buffer).set(new Uint8Array(weights), at);
  return {
    network,
    engine: { name: "planar", version: "", threads: 1, bytes: code.bytes },
    warmUpMs: WARM_UP_MS,
    place(tensor) {
      return () => {
        new Float32Array(memory.buffer, image, pixels).set(tensor);
        run(at, arena, image, logits);
        return Promise.resolve(new Float32Array(memory.buffer, logits, outputs).slice());
      };
    },
  };
}

function find(instance: WebAssembly.Instance, name: string): Exports {
  const { memory, __heap_base, [`${name}_arena_bytes`]: arenaBytes, [`${name}_run`]: run } = instance.exports;
  if (!(memory instanceof WebAssembly.Memory) || typeof arenaBytes !== "function" || typeof run !== "function") {
    throw new Error(`its WebAssembly has no ${name}_run`);
  }
  return { memory, __heap_base, arenaBytes, run } as Exports;
}
