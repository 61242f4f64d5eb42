/** The networks beside the page: reading `networks.json`, and fetching one network with its checksum. */

import type { Catalogue, Network } from "./types";

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
  const needed = ["id", "name", "file", "sha256", "bytes", "macs", "params", "preprocess", "class_names"] as const;
  return needed.find((field) => network?.[field] === undefined);
}

/**
 * Fetch a network and check that it is the file that `networks.json` describes.
 *
 * @throws Error with one sentence: missing, or another file.
 */
export async function fetchNetwork(network: Network, base: string): Promise<ArrayBuffer> {
  const response = await get(new URL(network.file, base).href, network.file);
  const bytes = await response.arrayBuffer();
  const expected = `${network.file} is not the file that ${NAME} describes`;
  if (bytes.byteLength !== network.bytes) {
    throw new Error(`${expected}: ${network.bytes} bytes were expected, ${bytes.byteLength} found.`);
  }
  // browsers offer checksums only to pages from https or from this device; elsewhere the size has to do
  if (globalThis.crypto?.subtle && hex(await crypto.subtle.digest("SHA-256", bytes)) !== network.sha256) {
    throw new Error(`${expected} (sha256 differs): make the folder again.`);
  }
  return bytes;
}

async function get(address: string, name: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address, { cache: "no-cache" });
  } catch {
    throw new Error(`${name} could not be fetched: is the server still there?`);
  }
  if (!response.ok) throw new Error(`${name} could not be fetched: the server answered ${response.status}.`);
  return response;
}

function hex(digest: ArrayBuffer): string {
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
