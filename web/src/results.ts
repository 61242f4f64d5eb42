/** What the page shows of results: a card with the best classes per network, one table, and where each comes from. */

import { best } from "./classes";
import { element } from "./element";
import { bytes, milliseconds, percent, quantile, short } from "./format";
import type { Answer, Network } from "./types";

const MIN_RANGE = 5; // runs from which a range says something

export interface Shown {
  network: Network;
  answer: Answer | undefined;
}

/** The best five classes with bars, and the crop that the network was given. */
export function card(network: Network, answer: Answer): HTMLElement {
  const title = element("h3", "", ...breakable(network.name));
  if (!network.trained) title.append(" ", element("span", "badge", "not trained"));
  const list = element("ol", "top");
  for (const guess of best(answer.logits, network)) {
    const fill = element("span", "fill");
    fill.style.width = `${100 * guess.probability}%`;
    const track = element("span", "track", fill);
    track.setAttribute("aria-hidden", "true"); // the number beside it says the same
    const value = element("span", "value", percent(guess.probability));
    list.append(element("li", "", element("span", "label", guess.label), value, track));
  }
  const { size } = network.preprocess;
  const canvas = element("canvas");
  canvas.width = canvas.height = size;
  canvas.getContext("2d")?.putImageData(new ImageData(answer.input, size, size), 0, 0);
  const seen = element("figcaption", "", `What the network sees: ${size} x ${size} pixels`);
  return element("article", "card", title, list, element("figure", "", canvas, seen));
}

/** Cost and latency, a column per network; with two, how many times as much the second takes. */
export function factsTable(shown: Shown[], threads: number): HTMLElement {
  const table = element("table", `of-${shown.length}`, element("caption", "", shown.length > 1 ? "Comparison" : "Cost"));
  table.setAttribute("role", "table"); // on a phone the rows are laid out as grids, which would take the roles away
  const head = tableRow(cell("td", "cell", ""));
  for (const { network } of shown) head.append(cell("th", "columnheader", ...breakable(network.name)));
  if (shown.length > 1) head.append(cell("th", "columnheader", "ratio"));
  const body = element("tbody", "");
  body.append(
    row("Latency", shown, (one) => median(one.answer?.runMs), milliseconds, (one) => spread(one.answer, threads)),
    row("Preprocessing", shown, (one) => one.answer?.preprocessMs, milliseconds),
    row("MACs", shown, (one) => one.network.macs, short),
    row("Parameters", shown, (one) => one.network.params, short),
    row("Bytes loaded", shown, (one) => one.network.bytes, bytes, (one) => one.network.precision),
  );
  table.append(element("thead", "", head), body);
  return table;
}

function tableRow(...cells: HTMLElement[]): HTMLElement {
  const made = element("tr", "", ...cells);
  made.setAttribute("role", "row");
  return made;
}

function cell(name: "td" | "th", role: string, ...content: (Node | string)[]): HTMLElement {
  const made = element(name, "", ...content);
  made.setAttribute("role", role);
  return made;
}

/** A name that may be broken behind its underscores. */
function breakable(name: string): (Node | string)[] {
  return name.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);
}

function row(
  name: string,
  shown: Shown[],
  value: (one: Shown) => number | undefined,
  format: (value: number) => string,
  more?: (one: Shown) => string,
): HTMLElement {
  const result = tableRow(cell("th", "rowheader", name));
  const values = shown.map(value);
  shown.forEach((one, index) => {
    const found = values[index];
    const made = cell("td", "cell", found === undefined ? "–" : format(found));
    const small = found === undefined ? "" : more?.(one);
    if (small) made.append(element("small", "", small));
    result.append(made);
  });
  if (shown.length > 1) {
    const [first, second] = values;
    result.append(cell("td", "cell", first && second ? `${(second / first).toFixed(2)}x` : "–"));
  }
  return result;
}

export function median(values: number[] | undefined): number | undefined {
  return values?.length ? quantile(values, 0.5) : undefined;
}

function spread(answer: Answer | undefined, threads: number): string {
  const runs = answer?.runMs ?? [];
  const count = `median of ${runs.length}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  if (runs.length < MIN_RANGE) return count;
  return `${count}; 10 to 90 %: ${quantile(runs, 0.1).toFixed(1)} to ${quantile(runs, 0.9).toFixed(1)} ms`;
}

/** One sentence, for those who listen rather than look. */
export function summary(name: string, shown: Shown[]): string {
  const parts = shown.map(({ network, answer }) => {
    const guess = answer && best(answer.logits, network, 1)[0];
    const latency = median(answer?.runMs);
    return guess && latency !== undefined
      ? `${guess.label}, ${percent(guess.probability)}, in ${milliseconds(latency)} (${network.name})`
      : network.name;
  });
  return `${name}: ${parts.join("; ")}`;
}

/** Where a network's weights come from, their licence, how it was checked. */
export function about(network: Network): HTMLElement {
  const { preprocess: how, verification: check } = network;
  const resize = how.resize === null ? "" : `shorter edge to ${how.resize}, `;
  const antialias = how.interpolation === "nearest" || how.antialias ? "" : " without antialiasing";
  const list = element("dl");
  const entries: [string, string][] = [
    ["Weights", network.source],
    ["Licence of the weights", network.license],
    [
      "Preprocessing",
      `${resize}${how.size} x ${how.size} pixels, ${how.interpolation}${antialias}, ` +
        (how.mean.length === 1 ? "grey" : "colour"),
    ],
    [
      "Compared with PyTorch",
      check.ran && check.relative_difference !== null
        ? `largest difference ${check.relative_difference.toPrecision(2)} of the largest logit, on ${check.images}`
        : "not compared",
    ],
    ["Classes", String(network.class_names.length)],
    ["File", `${network.file}, sha256 ${network.sha256}`],
  ];
  for (const [name, text] of entries) list.append(element("dt", "", name), element("dd", "", text));
  return element("details", "", element("summary", "", "About ", ...breakable(network.name)), list);
}
