/** The page: choose networks and an image, and show what comes out. */

import "./style.css";
import "./results.css";

import { startCamera, stopCamera } from "./camera";
import { ask, listenToProgress } from "./client";
import { resultAsJson, save } from "./download";
import { byId } from "./element";
import { exampleList } from "./examples";
import { bytes } from "./format";
import { readCatalogue } from "./models";
import { keepForOffline } from "./offline";
import { about, card, factsTable, kind, summary, type Shown } from "./results";
import type { Answer, EngineFacts, ImageFacts, Network, Progress } from "./types";

const HINT = "Click, drop or paste an image here";
const LIVE_RUNS = 30; // frames that the latency of the live picture is the median of

const first = byId<HTMLSelectElement>("first");
const second = byId<HTMLSelectElement>("second");
const drop = byId("drop");
const picture = byId<HTMLImageElement>("picture");
const video = byId<HTMLVideoElement>("video");
const file = byId<HTMLInputElement>("file");
const chooseButton = byId<HTMLButtonElement>("choose");
const cameraButton = byId<HTMLButtonElement>("camera");
const download = byId<HTMLButtonElement>("download");

let networks: Network[] = [];
let runtimeBytes = 0; // of ONNX Runtime's WebAssembly, as the catalogue says
let image: { blob: Blob; name: string } | undefined;
let facts: ImageFacts | undefined;
let runtimeFiles: string[] = [];
const engines = new Map<string, EngineFacts>(); // of the networks that are loaded, by their ids
let shown: Shown[] = [];
let stream: MediaStream | undefined;
let turn = 0; // of the last choice: what an earlier one still brings is dropped

/** `data-state` of the body tells tests and style sheets: starting, ready, busy, done, live, error. */
function setState(state: string, status: string): void {
  document.body.dataset["state"] = state;
  byId("status").textContent = status;
  byId("loading").hidden = true;
}

/** Show how far a download is; the last bytes of one hide it. */
function showProgress({ what, loaded, total }: Progress): void {
  const bar = byId<HTMLProgressElement>("bar");
  byId("loading").hidden = document.body.dataset["state"] !== "busy" || (total > 0 && loaded >= total);
  if (total > 0) {
    bar.max = total;
    bar.value = Math.min(loaded, total);
  } else bar.removeAttribute("value");
  byId("progress").textContent = `${what}: ${bytes(loaded)}${total > 0 ? ` of ${bytes(total)}` : ""}`;
}

function fail(error: unknown): void {
  const message = byId("error");
  message.textContent = error instanceof Error ? error.message : String(error);
  message.hidden = false;
  setState("error", "");
}

function chosen(): Network[] {
  const one = networks[first.selectedIndex];
  const other = networks[second.selectedIndex - 1]; // the first entry is "nothing"
  return [one, other].filter((network) => network !== undefined);
}

function show(answers: Answer[]): void {
  const byNetwork = new Map(answers.map((answer) => [answer.id, answer]));
  shown = chosen().map((network) => ({
    network,
    answer: byNetwork.get(network.id),
    engine: engines.get(network.id),
  }));
  byId("cards").replaceChildren(...shown.flatMap(({ network, answer }) => (answer ? [card(network, answer)] : [])));
  byId("facts").replaceChildren(factsTable(shown));
  download.hidden = answers.length === 0;
}

function showAbout(): void {
  byId("about").replaceChildren(...chosen().map(about));
  const [one, other] = [networks[first.selectedIndex], networks[second.selectedIndex - 1]];
  byId("first-kind").textContent = one ? kind(one) : "";
  byId("second-kind").textContent = other ? kind(other) : "";
  byId("second-kind").hidden = other === undefined;
}

async function loadChosen(): Promise<string[]> {
  const ids = [];
  for (const network of chosen()) {
    engines.set(network.id, await ask<"load">({ kind: "load", network, base: document.baseURI, runtimeBytes }));
    ids.push(network.id);
  }
  keepForOffline(chosen().flatMap(filesOf));
  const used = chosen().flatMap((network) => engines.get(network.id) ?? []);
  byId("runtime").textContent = [...new Set(used.map(describe))].join("; ");
  return ids;
}

/** What a network needs besides the page. */
function filesOf(network: Network): string[] {
  return [network.file, ...(network.code ? [network.code.file] : runtimeFiles)];
}

function describe({ name, version, threads, bytes: size }: EngineFacts): string {
  const engine = name === "planar" ? "Planar engine" : `ONNX Runtime Web ${version}`;
  return `${engine} (WebAssembly), ${threads === 1 ? "1 thread" : `${threads} threads`}, ${bytes(size)} of code`;
}

/** Run the chosen networks on the image, after either has changed. */
async function runChosen(): Promise<void> {
  const mine = ++turn;
  byId("error").hidden = true;
  showAbout();
  show([]);
  if (stream !== undefined) return live(mine);
  setState("busy", image ? `Running on ${image.name}…` : "Loading the network…");
  try {
    if (image !== undefined) {
      const decoded = await ask<"image">({ kind: "image", file: image.blob });
      if (mine !== turn) return;
      facts = decoded;
      byId("note").textContent = decoded.note;
      byId("note").hidden = decoded.note === "";
    }
    const ids = await loadChosen();
    if (mine !== turn) return;
    if (image === undefined) {
      show([]);
      setState("ready", "Choose, drop or paste an image, or use the camera.");
      return;
    }
    const answers = await ask<"run">({ kind: "run", ids });
    if (mine !== turn) return;
    show(answers);
    setState("done", summary(image.name, shown));
    bringResultsIntoView();
  } catch (error) {
    if (mine === turn) fail(error);
  }
}

/** On a phone, they are below the image. */
function bringResultsIntoView(): void {
  if (byId("status").getBoundingClientRect().top > innerHeight - 100) byId("status").scrollIntoView();
}

async function live(mine: number): Promise<void> {
  setState("busy", "Loading the network…");
  const runs = new Map<string, number[]>();
  try {
    const ids = await loadChosen();
    while (mine === turn && stream !== undefined) {
      const frame = await createImageBitmap(video);
      const answers = await ask<"frame">({ kind: "frame", frame, ids });
      if (mine !== turn) return;
      for (const answer of answers) {
        answer.runMs = [...(runs.get(answer.id) ?? []), ...answer.runMs].slice(-LIVE_RUNS);
        runs.set(answer.id, answer.runMs);
      }
      facts = undefined;
      show(answers);
      if (document.body.dataset["state"] !== "live") {
        setState("live", "The camera is on.");
        if (answers.some((answer) => answer.mask)) bringResultsIntoView(); // the overlay shows the picture too
      }
      await new Promise(requestAnimationFrame);
    }
  } catch (error) {
    if (mine === turn) {
      endCamera();
      fail(error);
    }
  }
}

/** What stands in the frame while there is no picture. */
function hint(text: string): void {
  byId("hint").textContent = text;
  byId("hint").hidden = text === "";
  drop.classList.toggle("filled", text === "");
}

function choose(blob: Blob, name: string): void {
  endCamera();
  image = { blob, name };
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(blob);
  picture.alt = name;
  picture.hidden = false;
  hint("");
  void runChosen();
}

function endCamera(): void {
  if (stream === undefined) return;
  stopCamera(video, stream);
  stream = undefined;
  turn++;
  cameraButton.textContent = "Use the camera";
  cameraButton.setAttribute("aria-pressed", "false");
  video.hidden = true;
  picture.hidden = image === undefined;
  hint(image === undefined ? HINT : "");
}

async function toggleCamera(): Promise<void> {
  if (stream !== undefined) {
    endCamera();
    setState("done", "The camera is off. The last picture's result stays.");
    return;
  }
  byId("error").hidden = true;
  cameraButton.disabled = true;
  try {
    stream = await startCamera(video);
  } catch (error) {
    fail(error);
    return;
  } finally {
    cameraButton.disabled = false;
  }
  cameraButton.textContent = "Stop the camera";
  cameraButton.setAttribute("aria-pressed", "true");
  for (const id of ["picture", "note"]) byId(id).hidden = true;
  hint("");
  video.hidden = false;
  image = undefined;
  await runChosen();
}

function listen(): void {
  first.onchange = second.onchange = () => void runChosen();
  chooseButton.onclick = () => file.click();
  drop.onclick = () => {
    if (stream === undefined) file.click();
  };
  document.onpaste = (event) => {
    const [one] = event.clipboardData?.files ?? [];
    if (one === undefined) return;
    event.preventDefault();
    choose(one, one.name || "pasted image");
  };
  listenToProgress(showProgress);
  file.onchange = () => {
    const [one] = file.files ?? [];
    if (one) choose(one, one.name);
    file.value = ""; // so that the same file can be chosen again
  };
  cameraButton.onclick = () => void toggleCamera();
  download.onclick = () => save(resultAsJson(image?.name ?? "camera", facts, shown), "result.json");
  picture.onerror = () => {
    picture.hidden = true;
    hint("This file shows no picture");
  };
  // the whole page takes a dropped file: one that misses the frame would replace the page
  document.ondragover = (event) => {
    event.preventDefault();
    drop.classList.add("over");
  };
  document.ondragleave = () => drop.classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [one] = event.dataTransfer?.files ?? [];
    if (one) choose(one, one.name);
  };
}

async function start(): Promise<void> {
  try {
    const catalogue = await readCatalogue();
    networks = catalogue.networks;
    runtimeBytes = catalogue.runtime_bytes ?? 0;
    runtimeFiles = catalogue.runtime_files ?? [];
    first.append(...networks.map((network) => new Option(network.name)));
    second.append(new Option("nothing"), ...networks.map((network) => new Option(network.name)));
    first.disabled = second.disabled = false;
    listen();
    byId("example-list").append(...exampleList(catalogue.examples, choose, fail));
    byId("examples").hidden = catalogue.examples.length === 0;
  } catch (error) {
    chooseButton.disabled = cameraButton.disabled = true;
    fail(error);
    return;
  }
  await runChosen();
}

void start();
