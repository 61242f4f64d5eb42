/** Networks in ONNX Runtime's WebAssembly, on the processor. */

import * as ort from "onnxruntime-web/wasm";
import loaderUrl from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

import { quantile } from "./format";
import { fetchKept, fetchNetwork, type Told } from "./models";
import { prepare, type Pixels, type Prepared } from "./preprocess";
import type { Answer, Network, RuntimeFacts } from "./types";

const MAX_THREADS = 4; // these networks are too small to gain from more
const WARM_UP = 2;
const MIN_RUNS = 3;
const MAX_RUNS = 12;
const BUDGET_MS = 1500; // of all networks together
const PREPARE_MS = 200;

const sessions = new Map<string, Promise<Loaded>>();

interface Loaded {
  network: Network;
  session: ort.InferenceSession;
}

// memory that threads share is given only to pages whose server isolates them
const threads = globalThis.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;

ort.env.logLevel = "error";
ort.env.wasm.numThreads = threads;
ort.env.wasm.wasmPaths = { mjs: new URL(loaderUrl, import.meta.url).href, wasm: new URL(wasmUrl, import.meta.url).href };

let runtime: Promise<void> | undefined;
let runtimeSize = 0;

/** Fetch the WebAssembly, so that its progress can be shown; the runtime itself would say nothing. */
function loadRuntime(total: number, told: Told): Promise<void> {
  runtime ??= fetchKept(new URL(wasmUrl, import.meta.url).href, "ONNX Runtime", total, told).then((bytes) => {
    ort.env.wasm.wasmBinary = bytes;
    runtimeSize = bytes.byteLength;
  });
  runtime.catch(() => (runtime = undefined));
  return runtime;
}

/** Load a network once; a failure is not kept, so that it can be tried again. */
export async function load(network: Network, base: string, runtimeBytes: number, told: Told): Promise<RuntimeFacts> {
  let loading = sessions.get(network.id);
  if (loading === undefined) {
    loading = open(network, base, runtimeBytes, told);
    sessions.set(network.id, loading);
    loading.catch(() => sessions.delete(network.id));
  }
  await loading;
  return { version: ort.env.versions.web ?? "", threads, bytes: runtimeSize };
}

async function open(network: Network, base: string, runtimeBytes: number, told: Told): Promise<Loaded> {
  const bytes = await fetchNetwork(network, base, told);
  try {
    await loadRuntime(runtimeBytes, told);
  } catch (error) {
    throw new Error(`${network.name} cannot be loaded by ONNX Runtime: ${error instanceof Error ? error.message : error}`);
  }
  try {
    return { network, session: await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }) };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new Error(`${network.name} cannot be loaded by ONNX Runtime: ${reason.split("\n")[0]}`);
  }
}

/**
 * Run networks on one image.
 *
 * @param measured run each several times, in turns, so that what the device does besides touches all alike;
 *   otherwise once, for live pictures.
 */
export async function run(ids: string[], pixels: Pixels, measured: boolean): Promise<Answer[]> {
  const entries = [];
  for (const id of ids) {
    const loaded = await sessions.get(id);
    if (loaded === undefined) throw new Error(`the network ${id} is not loaded`);
    const { tensor, input, preprocessMs } = timedPrepare(pixels, loaded.network, measured ? MIN_RUNS : 1);
    const { size, mean } = loaded.network.preprocess;
    const feeds = { [loaded.session.inputNames[0]!]: new ort.Tensor("float32", tensor, [1, mean.length, size, size]) };
    const answer: Answer = { id, logits: new Float32Array(), input, preprocessMs, runMs: [] };
    entries.push({ session: loaded.session, feeds, answer });
  }
  const begun = performance.now();
  for (let round = measured ? -WARM_UP : 0; round < (measured ? MAX_RUNS : 1); round++) {
    if (round >= MIN_RUNS && performance.now() - begun > BUDGET_MS) break;
    for (const { session, feeds, answer } of entries) {
      const start = performance.now();
      const result = (await session.run(feeds))[session.outputNames[0]!]!;
      if (round >= 0) answer.runMs.push(performance.now() - start);
      answer.logits = Float32Array.from(result.data as Float32Array);
      result.dispose();
    }
  }
  return entries.map((entry) => entry.answer);
}

/** Prepare the image, and the median time of it; a large image is prepared once. */
function timedPrepare(pixels: Pixels, network: Network, runs: number): Prepared & { preprocessMs: number } {
  const times: number[] = [];
  const begun = performance.now();
  let prepared: Prepared;
  do {
    const start = performance.now();
    prepared = prepare(pixels, network.preprocess, network.vertical_first);
    times.push(performance.now() - start);
  } while (times.length < runs && performance.now() - begun < PREPARE_MS);
  return { ...prepared, preprocessMs: quantile(times, 0.5) };
}
