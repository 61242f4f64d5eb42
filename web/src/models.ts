/** The networks beside the page: reading `networks.json`, and fetching a network's files with their checksums. */

import type { Catalogue, Network, Stored } from "./types";

export type Told = (what: string, loaded: number, total: number) => void;

const NAME = "networks.json";

/** Read the list of networks; throws with one sentence where it cannot be used. */
export async function readCatalogue(): Promise<Catalogue> {
  const response = await get(NAME, NAME);
  let found: unknown;
  try {
    found = await response.json();
  } catch {
    throw new Error(`${NAME} is not valid JSON: make the folder again with 'compactnets web'.`);
  }
  const catalogue = found as Partial<Catalogue> | null;
  if (catalogue?.version !== 1 || !Array.isArray(catalogue.networks)) {
    throw new Error(`${NAME} is not a list of networks that this page knows: make the folder again.`);
  }
  if (catalogue.networks.length === 0) {
    throw new Error(`${NAME} lists no network: name one with 'compactnets web --checkpoint'.`);
  }
  for (const network of catalogue.networks) {
    const lacks = missingField(network);
    if (lacks) throw new Error(`${NAME} does not say the ${lacks} of ${network?.name ?? "a network"}.`);
  }
  return { version: 1, compactnets: "", examples: [], ...catalogue } as Catalogue;
}

function missingField(network: Partial<Network>): string | undefined {
  const needed = ["id", "name", "engine", "file", "sha256", "bytes", "macs", "params", "preprocess", "task", "class_names"] as const;
  return needed.find((field) => network?.[field] === undefined) ?? (network.map && !network.colours ? "colours" : undefined);
}

/**
 * Fetch a file of a network, from this page's server alone, and check that it is the one that `networks.json` describes.
 *
 * @param told hears how many bytes have come.
 * @throws Error with one sentence: missing, or another file.
 */
export async function fetchFile(
  stored: Stored,
  base: string,
  told: (loaded: number) => void = () => {},
): Promise<ArrayBuffer> {
  const address = new URL(stored.file, base);
  if (address.origin !== new URL(base).origin) {
    throw new Error(`${NAME} names ${stored.file}, which is on another server: make the folder again.`);
  }
  const bytes = await read(await get(address.href, stored.file), stored.file, told);
  const expected = `${stored.file} is not the file that ${NAME} describes`;
  if (bytes.byteLength !== stored.bytes) {
    throw new Error(`${expected}: ${stored.bytes} bytes were expected, ${bytes.byteLength} found.`);
  }
  // browsers offer checksums only to pages from https or from this device; elsewhere the size has to do
  if (globalThis.crypto?.subtle && hex(await crypto.subtle.digest("SHA-256", bytes)) !== stored.sha256) {
    throw new Error(`${expected} (sha256 differs): make the folder again.`);
  }
  return bytes;
}

/** Fetch a file whose name changes with its content, such as the runtime; the browser may have it already. */
export async function fetchKept(address: string, what: string, total: number, told: Told): Promise<ArrayBuffer> {
  const response = await get(address, what, "default");
  return read(response, what, (loaded) => told(what, loaded, total));
}

/** Read an answer, and say how many bytes have come each time that some have. */
async function read(response: Response, name: string, told: (loaded: number) => void): Promise<ArrayBuffer> {
  if (response.body === null) return response.arrayBuffer();
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let loaded = 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      loaded += value.byteLength;
      told(loaded);
    }
  } catch {
    throw new Error(`${name} stopped coming after ${loaded} bytes: is the network still there? Choose it again to retry.`);
  }
  const bytes = new Uint8Array(loaded);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes.buffer;
}

async function get(address: string, name: string, cache: RequestCache = "no-cache"): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address, { cache });
  } catch {
    throw new Error(`${name} could not be fetched: is the server still there?`);
  }
  if (!response.ok) throw new Error(`${name} could not be fetched: the server answered ${response.status}.`);
  return response;
}

function hex(digest: ArrayBuffer): string {
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
