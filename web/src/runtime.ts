/** The networks that are loaded, each in its engine, and their runs in turns. */

import { quantile } from "./format";
import { maskOf, overlay } from "./mask";
import type { Told } from "./models";
import { open as openPlanar } from "./planar";
import { prepare, type Pixels, type Prepared } from "./preprocess";
import type { Answer, EngineFacts, Network, Session } from "./types";

const WARM_UP = 2;
const MAX_WARM_UP = 50;
const MIN_RUNS = 3;
const MAX_RUNS = 12;
const BUDGET_MS = 1500; // of all networks together
const PREPARE_MS = 200;

const sessions = new Map<string, Promise<Session>>();

/** Load a network once; a failure is not kept, so that it can be tried again. */
export async function load(network: Network, base: string, runtimeBytes: number, told: Told): Promise<EngineFacts> {
  let loading = sessions.get(network.id);
  if (loading === undefined) {
    loading = open(network, base, runtimeBytes, told);
    sessions.set(network.id, loading);
    loading.catch(() => sessions.delete(network.id));
  }
  return (await loading).engine;
}

async function open(network: Network, base: string, runtimeBytes: number, told: Told): Promise<Session> {
  if (network.engine === "planar") return openPlanar(network, base, told);
  if (network.engine !== "onnx") {
    throw new Error(`${network.name} is for the engine ${network.engine as string}, which this page does not have: make the folder again.`);
  }
  const onnx = await import("./onnx").catch(() => {
    throw new Error(`${network.name} cannot be loaded by ONNX Runtime: its files could not be fetched.`);
  });
  return onnx.open(network, base, runtimeBytes, told);
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
    const session = await sessions.get(id);
    if (session === undefined) throw new Error(`the network ${id} is not loaded`);
    const { tensor, input, preprocessMs } = timedPrepare(pixels, session.network, measured ? MIN_RUNS : 1);
    const answer: Answer = { id, logits: new Float32Array(), picture: input, preprocessMs, runMs: [] };
    entries.push({ session, start: session.place(tensor), answer });
  }
  if (measured) for (const { session, start } of entries) await warmUp(session, start);
  const begun = performance.now();
  for (let round = 0; round < (measured ? MAX_RUNS : 1); round++) {
    if (round >= MIN_RUNS && performance.now() - begun > BUDGET_MS) break;
    for (const { start, answer } of entries) {
      const time = performance.now();
      answer.logits = await start();
      answer.runMs.push(performance.now() - time);
    }
  }
  for (const { session, answer } of entries) drawMask(answer, session.network, pixels);
  return entries.map((entry) => entry.answer);
}

/** Where a network has scores for every pixel, add the mask of the image, and put the image under it. */
function drawMask(answer: Answer, { map, colours, class_names: { length: classes } }: Network, pixels: Pixels): void {
  if (!map || !colours) return;
  const start = performance.now();
  answer.mask = maskOf(answer.logits, [classes, ...map], pixels.width, pixels.height);
  answer.picture = overlay(pixels, answer.mask, colours);
  answer.drawMs = performance.now() - start;
}

const warmMs = new Map<string, number>(); // how long each network has run so far

async function warmUp(session: Session, start: () => Promise<unknown>): Promise<void> {
  const { id } = session.network;
  const cold = (round: number) => round < MAX_WARM_UP && (warmMs.get(id) ?? 0) < session.warmUpMs;
  for (let round = 0; round < WARM_UP || cold(round); round++) {
    const time = performance.now();
    await start();
    warmMs.set(id, (warmMs.get(id) ?? 0) + performance.now() - time);
  }
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
