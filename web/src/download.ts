/** The result as a JSON file: every logit or the mask, so that it can be compared with another runtime's. */

import { guesses } from "./classes";
import { median, type Shown } from "./results";
import type { Answer, ImageFacts, Mask, Network } from "./types";

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
            ...found(network, answer),
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

function found(network: Network, answer: Answer): object {
  if (answer.mask === undefined) {
    const kind = network.threshold === undefined ? "top5" : "labels"; // all that are likely
    return { [kind]: guesses(answer, network), logits: Array.from(answer.logits) };
  }
  const { mask, drawMs } = answer;
  const shares = mask.counts.map((count, index) => [network.class_names[index], count / (mask.width * mask.height)]);
  return {
    draw_ms: drawMs,
    shares: Object.fromEntries(shares),
    mask: { width: mask.width, height: mask.height, runs: runs(mask) },
  };
}

/** The labels row by row, each followed by how often it comes in a row. */
function runs({ labels }: Mask): number[] {
  const found: number[] = [];
  for (let i = 0, start = 0; i < labels.length; i++) {
    if (labels[i] === labels[i + 1]) continue;
    found.push(labels[i]!, i + 1 - start);
    start = i + 1;
  }
  return found;
}

export function save(text: string, name: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
