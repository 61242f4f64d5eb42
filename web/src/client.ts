/** The page's side of the worker: a request becomes a promise. */

import type { Progress, Replies, Request } from "./types";

interface Waiting {
  resolve: (result: never) => void;
  reject: (error: Error) => void;
}

const waiting = new Map<number, Waiting>();
let worker: Worker | undefined;
let count = 0;
let onProgress: (progress: Progress) => void = () => {};

/** Hear how far downloads are. */
export function listenToProgress(listener: (progress: Progress) => void): void {
  onProgress = listener;
}

function start(): Worker {
  const started = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  type Reply = { number: number; result?: never; error?: string; progress?: Progress };
  started.onmessage = (event: MessageEvent<Reply>) => {
    if (event.data.progress) return onProgress(event.data.progress);
    const { number, result, error } = event.data;
    const one = waiting.get(number);
    waiting.delete(number);
    if (error === undefined) one?.resolve(result as never);
    else one?.reject(new Error(error));
  };
  started.onerror = (event) => {
    event.preventDefault();
    const reason = event.message || "its script could not be loaded";
    for (const one of waiting.values()) one.reject(new Error(`The worker stopped: ${reason}.`));
    waiting.clear();
    worker = undefined; // the next request starts another
  };
  return started;
}

/** Ask the worker; rejects with its sentence for the visitor. */
export function ask<K extends Request["kind"]>(request: Extract<Request, { kind: K }>): Promise<Replies[K]> {
  worker ??= start();
  const number = ++count;
  const any: Request = request;
  const moved = any.kind === "frame" ? [any.frame] : [];
  worker.postMessage({ number, request }, moved);
  return new Promise((resolve, reject) => waiting.set(number, { resolve, reject } as Waiting));
}
