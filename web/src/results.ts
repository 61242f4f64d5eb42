/** What the page shows of results: a card with the classes per network, one table, and where each comes from. */

import { guesses, nothing } from "./classes";
import { element } from "./element";
import { bytes, milliseconds, percent, quantile, short } from "./format";
import { sides } from "./preprocess";
import type { Answer, EngineFacts, Network } from "./types";

const PLANAR = "planar: WebAssembly compiled from this network alone";
const MIN_RANGE = 5; // runs from which a range says something

export interface Shown {
  network: Network;
  answer: Answer | undefined;
  engine: EngineFacts | undefined; // once it is loaded
}

/** The best five classes with bars, and the crop that the network was given; or a mask over its image, and its legend. */
export function card(network: Network, answer: Answer): HTMLElement {
  const title = element("h3", "", ...breakable(network.name));
  if (!network.trained) title.append(" ", element("span", "badge", "not trained"));
  const of = element("p", "note", kind(network));
  const list = element("ol", "top");
  const found = guesses(answer, network);
  if (found.length === 0) list.append(element("li", "", element("span", "label", nothing(network))));
  for (const guess of found) {
    const colour = network.colours?.[guess.index];
    const fill = element("span", "fill");
    fill.style.width = `${100 * guess.probability}%`;
    const track = element("span", "track", fill);
    track.setAttribute("aria-hidden", "true"); // the number beside it says the same
    const value = element("span", "value", percent(guess.probability));
    const label = element("span", "label", guess.label);
    if (colour) {
      const swatch = element("span", "swatch");
      swatch.style.backgroundColor = fill.style.backgroundColor = `rgb(${colour.join(" ")})`;
      label.prepend(swatch);
    }
    list.append(element("li", "", label, value, track));
  }
  const { width, height, data } = answer.picture;
  const canvas = element("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d")?.putImageData(new ImageData(data, width, height), 0, 0);
  if (answer.mask === undefined) {
    const seen = element("figcaption", "", `What the network sees: ${input(network)} pixels`);
    return element("article", "card", title, of, list, element("figure", "", canvas, seen));
  }
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The image under the colours of its classes");
  const figure = element("figure", "overlay", canvas, element("figcaption", "", "Classes, by their share of the pixels"));
  return element("article", "card", title, of, figure, list);
}

/** The input of a network: its height and width, as in Python. */
function input(network: Network): string {
  return sides(network.preprocess).join(" x ");
}

/** What a network is of: its data, classes and input, in a line. */
export function kind(network: Network): string {
  const { mean } = network.preprocess;
  const classes = network.class_names.length;
  const of = network.map ? " for every pixel" : network.threshold === undefined ? "" : ", several at once";
  const data = !network.trained ? "not trained" : network.data ? `trained on ${network.data}` : "";
  const parts = [
    data,
    `${classes.toLocaleString("en")} ${classes === 1 ? "class" : "classes"}${of}`,
    `${input(network)} pixels${mean.length === 1 ? ", grey" : ""}`,
  ];
  return parts.filter((part) => part !== "").join("; ");
}

/** Whether two networks answer the same question: a ratio of their costs means nothing otherwise. */
export function comparable(one: Network, other: Network): boolean {
  return (
    one.task === other.task &&
    input(one) === input(other) &&
    one.preprocess.mean.length === other.preprocess.mean.length &&
    one.class_names.length === other.class_names.length &&
    one.class_names.every((name, index) => name === other.class_names[index])
  );
}

/**
 * Cost and latency, a column per network; with two of a kind, how many times as much the second takes.
 *
 * Two of different kinds are set side by side, with a line that says why there is no ratio.
 */
export function factsTable(shown: Shown[]): HTMLElement {
  const ratio = shown.length === 2 && comparable(shown[0]!.network, shown[1]!.network);
  const table = element("table", `of-${shown.length}${ratio ? "" : " plain"}`, element("caption", "", shown.length > 1 ? "Comparison" : "Cost"));
  table.setAttribute("role", "table"); // on a phone the rows are laid out as grids, which would take the roles away
  const head = tableRow(cell("td", "cell", ""));
  for (const { network } of shown) head.append(cell("th", "columnheader", ...breakable(network.name)));
  if (ratio) head.append(cell("th", "columnheader", "Ratio"));
  const body = element("tbody", "");
  body.append(
    row("Input", shown, (one) => input(one.network), String, undefined, false),
    row(
      "Classes",
      shown,
      (one) => one.network.class_names.length,
      (count) => count.toLocaleString("en"),
      (one) => one.network.data ?? "",
      false,
    ),
    row(
      "Engine",
      shown,
      (one) => one.network.engine,
      (name) => (name === "planar" ? "planar" : "ONNX Runtime"),
      (one) => (one.engine ? `${bytes(one.engine.bytes)} of code` : ""),
      false,
    ),
    row("Latency", shown, (one) => median(one.answer?.runMs), milliseconds, spread),
    row("Preprocessing", shown, (one) => one.answer?.preprocessMs, milliseconds),
    ...(shown.some((one) => one.network.map)
      ? [row("Mask and overlay", shown, (one) => one.answer?.drawMs, milliseconds)]
      : []),
    row("MACs", shown, (one) => one.network.macs, short),
    row("Parameters", shown, (one) => one.network.params, short),
    row("Weights", shown, (one) => one.network.bytes, bytes, (one) => one.network.precision),
  );
  table.append(element("thead", "", head), body);
  if (shown.length < 2 || ratio) return table;
  const why =
    "No ratio: these networks have another task, other classes or another input, so that neither replaces the other. A larger " +
    "image alone costs more.";
  return element("div", "", table, element("p", "note incomparable", why));
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

function row<T extends number | string>(
  name: string,
  shown: Shown[],
  value: (one: Shown) => T | undefined,
  format: (value: T) => string,
  more?: (one: Shown) => string,
  compared = true,
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
  if (shown.length === 2 && comparable(shown[0]!.network, shown[1]!.network)) {
    const [first, second] = values;
    const numbers = typeof first === "number" && typeof second === "number" && first && second;
    const text = !compared ? "" : numbers ? `${(second / first).toFixed(2)}x` : "–";
    result.append(cell("td", "cell", text));
  }
  return result;
}

export function median(values: number[] | undefined): number | undefined {
  return values?.length ? quantile(values, 0.5) : undefined;
}

function spread({ answer, engine }: Shown): string {
  const runs = answer?.runMs ?? [];
  const threads = engine?.threads ?? 1;
  const count = `median of ${runs.length}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  if (runs.length < MIN_RANGE) return count;
  return `${count}; 10 to 90 %: ${quantile(runs, 0.1).toFixed(1)} to ${quantile(runs, 0.9).toFixed(1)} ms`;
}

/** One sentence, for those who listen rather than look. */
export function summary(name: string, shown: Shown[]): string {
  const parts = shown.map(({ network, answer }) => {
    const latency = median(answer?.runMs);
    if (answer === undefined || latency === undefined) return network.name;
    const found = guesses(answer, network);
    const said = network.threshold === undefined ? found.slice(0, 1) : found;
    const text = said.map((guess) => `${guess.label}, ${percent(guess.probability)}`).join(", ") || nothing(network);
    return `${text}, in ${milliseconds(latency)} (${network.name})`;
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
      `${resize}${input(network)} pixels, ${how.interpolation}${antialias}, ` +
        (how.mean.length === 1 ? "grey" : "colour"),
    ],
    [
      "Compared with PyTorch",
      check.ran && check.relative_difference !== null
        ? `largest difference ${check.relative_difference.toPrecision(2)} of the largest ${network.map ? "score" : "logit"}, on ${check.images}, run ${check.where}`
        : "not compared",
    ],
    ["Trained on", network.data || "not recorded"],
    ["Classes", String(network.class_names.length)],
    ["Engine", network.engine === "planar" ? PLANAR : "ONNX Runtime Web"],
    [network.code ? "Weights file" : "File", `${network.file}, sha256 ${network.sha256}`],
  ];
  if (network.code) entries.push(["Code", `${network.code.file}, sha256 ${network.code.sha256}`]);
  for (const [name, text] of entries) list.append(element("dt", "", name), element("dd", "", text));
  return element("details", "", element("summary", "", "About ", ...breakable(network.name)), list);
}
