/** The worker: it decodes, prepares and runs, so that the page answers while it does. */

import { decode, drawn } from "./decode";
import type { Pixels } from "./preprocess";
import { load, run } from "./runtime";
import type { Request } from "./types";

let current: Pixels | undefined; // the image that `run` means

async function answer(request: Request): Promise<unknown> {
  switch (request.kind) {
    case "load":
      return load(request.network, request.base, request.runtimeBytes, (what, loaded, total) => {
        self.postMessage({ progress: { what, loaded, total } });
      });
    case "image": {
      const start = performance.now();
      const { pixels, orientation, note } = await decode(request.file);
      current = pixels;
      return { width: pixels.width, height: pixels.height, orientation, note, decodeMs: performance.now() - start };
    }
    case "frame":
      return run(request.ids, drawn(request.frame), false);
    case "run":
      if (current === undefined) throw new Error("There is no image yet.");
      return run(request.ids, current, true);
  }
}

self.onmessage = async (event: MessageEvent<{ number: number; request: Request }>) => {
  const { number, request } = event.data;
  try {
    self.postMessage({ number, result: await answer(request) });
  } catch (error) {
    self.postMessage({ number, error: error instanceof Error ? error.message : String(error) });
  }
};
