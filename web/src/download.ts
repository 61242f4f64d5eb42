/** The result as a JSON file: every logit, so that it can be compared with another runtime's. */

import { best } from "./classes";
import { median, type Shown } from "./results";
import type { ImageFacts } from "./types";

export function resultAsJson(name: string, image: ImageFacts | undefined, shown: Shown[]): string {
  const networks = shown.flatMap(({ network, answer, engine }) =>
    answer === undefined
      ? []
      : [
          {
            name: network.name,
            engine,
            sha256: network.sha256,
            precision: network.precision,
            bytes: network.bytes,
            macs: network.macs,
            params: network.params,
            preprocess: network.preprocess,
            preprocess_ms: answer.preprocessMs,
            latency_ms: { median: median(answer.runMs), runs: answer.runMs },
            top5: best(answer.logits, network),
            logits: Array.from(answer.logits),
          },
        ],
  );
  const result = {
    version: 2,
    image: { name, ...image },
    browser: navigator.userAgent,
    networks,
  };
  return JSON.stringify(result, null, 2);
}

export function save(text: string, name: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
