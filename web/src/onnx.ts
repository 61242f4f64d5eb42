/** Networks in ONNX Runtime's WebAssembly, on the CPU; only a page with such a network loads this file. */

import * as ort from "onnxruntime-web/wasm";
import loaderUrl from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

import { fetchFile, fetchKept, type Told } from "./models";
import { sides } from "./preprocess";
import type { Network, Session } from "./types";

const MAX_THREADS = 4; // these networks are too small to gain from more

// memory that threads share is given only to pages whose server isolates them
const threads = globalThis.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;

ort.env.logLevel = "error";
ort.env.wasm.numThreads = threads;
ort.env.wasm.wasmPaths = { mjs: new URL(loaderUrl, import.meta.url).href, wasm: new URL(wasmUrl, import.meta.url).href };

let runtime: Promise<number> | undefined;

/** Fetch the WebAssembly, so that its progress can be shown; the runtime itself would say nothing. */
function loadRuntime(total: number, told: Told): Promise<number> {
  runtime ??= fetchKept(new URL(wasmUrl, import.meta.url).href, "ONNX Runtime", total, told).then((bytes) => {
    ort.env.wasm.wasmBinary = bytes;
    return bytes.byteLength;
  });
  runtime.catch(() => (runtime = undefined));
  return runtime;
}

export async function open(network: Network, base: string, runtimeBytes: number, told: Told): Promise<Session> {
  const file = await fetchFile(network, base, (loaded) => told(network.name, loaded, network.bytes));
  let bytes: number;
  try {
    bytes = await loadRuntime(runtimeBytes, told);
  } catch (error) {
    throw new Error(`${network.name} cannot be loaded by ONNX Runtime: ${error instanceof Error ? error.message : error}`);
  }
  let session: ort.InferenceSession;
  try {
    session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new Error(`${network.name} cannot be loaded by ONNX Runtime: ${reason.split("\n")[0]}`);
  }
  const shape = [1, network.preprocess.mean.length, ...sides(network.preprocess)];
  return {
    network,
    engine: { name: "onnxruntime-web", version: ort.env.versions.web ?? "", threads, bytes },
    warmUpMs: 0,
    place(tensor) {
      const feeds = { [session.inputNames[0]!]: new ort.Tensor("float32", tensor, shape) };
      return async () => {
        const result = (await session.run(feeds))[session.outputNames[0]!]!;
        const logits = Float32Array.from(result.data as Float32Array);
        result.dispose();
        return logits;
      };
    },
  };
}
