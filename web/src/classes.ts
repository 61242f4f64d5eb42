/** From logits to the best classes. */

import type { Network } from "./types";

export interface Guess {
  index: number;
  label: string;
  probability: number; // softmax, 0 to 1
}

export function best(logits: Float32Array, network: Network, count = 5): Guess[] {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  const labels = network.class_labels.length ? network.class_labels : network.class_names;
  return powers
    .map((power, index) => ({ index, label: labels[index] ?? `class ${index}`, probability: power / total }))
    .sort((a, b) => b.probability - a.probability || a.index - b.index)
    .slice(0, count);
}
