/** From logits to the best classes, or to all that are likely; from a mask to the largest. */

import { percent } from "./format";
import type { Answer, Network } from "./types";

const LEAST = 1e-3; // share of the pixels: what a legend leaves out, as in Python

export interface Guess {
  index: number;
  label: string;
  probability: number; // 0 to 1: softmax; with a threshold, a sigmoid; with a mask, the share of the pixels
}

/** What an answer says, the most certain class first, or the largest. */
export function guesses(answer: Answer, network: Network): Guess[] {
  const { mask } = answer;
  if (network.threshold !== undefined) return likely(answer.logits, network, network.threshold);
  if (mask === undefined) return best(answer.logits, network);
  const pixels = mask.width * mask.height;
  const found = mask.counts.map((count, index) => ({ index, label: label(network, index), probability: count / pixels }));
  return found.filter((guess) => guess.probability >= LEAST).sort(largestFirst);
}

export function best(logits: Float32Array, network: Network, count = 5): Guess[] {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers
    .map((power, index) => ({ index, label: label(network, index), probability: power / total }))
    .sort(largestFirst)
    .slice(0, count);
}

/** Every class by itself: those with at least this probability, and perhaps none. */
function likely(logits: Float32Array, network: Network, threshold: number): Guess[] {
  return Array.from(logits, (logit, index) => ({ index, label: label(network, index), probability: 1 / (1 + Math.exp(-logit)) }))
    .filter((guess) => guess.probability >= threshold)
    .sort(largestFirst);
}

/** What is said where an answer has no class. */
export function nothing({ threshold = 0 }: Network): string {
  return `no label with a probability of ${percent(threshold)} or more`;
}

function label({ class_labels: labels, class_names: names }: Network, index: number): string {
  return (labels.length ? labels : names)[index] ?? `class ${index}`;
}

function largestFirst(one: Guess, other: Guess): number {
  return other.probability - one.probability || one.index - other.index;
}
