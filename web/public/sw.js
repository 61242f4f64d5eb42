// The service worker: what the page has shown once it shows without a network too.
//
// The network comes first, so that a folder that is made anew shows at once; what is kept answers where there is none.

const NAME = `compactnets ${self.registration.scope}`;
const LIST = "networks.json";

self.addEventListener("install", (event) => {
  event.waitUntil(keepPage().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(self.clients.claim());
});

self.addEventListener("message", (event) => {
  const files = Array.isArray(event.data?.keep) ? event.data.keep : [];
  event.waitUntil(Promise.allSettled([...files.map((file) => keep(file)), forgetOthers()]));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) event.respondWith(answer(event));
});

/** Keep all of the page but its networks, of which it may have many, and ONNX Runtime: those are kept when used. */
async function keepPage() {
  const { files, runtime_files } = await (await fetch(LIST, { cache: "no-cache" })).json();
  const used = new Set(runtime_files);
  const page = ["./", ...files.filter((file) => !file.startsWith("models/") && !used.has(file))];
  await Promise.all(page.map((file) => keep(new URL(file, self.registration.scope).href)));
}

async function keep(address) {
  const cache = await caches.open(NAME);
  const [kept, response] = [await cache.match(address), await fetch(address)];
  if (response.ok && !same(kept, response)) await cache.put(address, response);
}

/** Forget what is no more in the folder. */
async function forgetOthers() {
  const { files } = await (await fetch(LIST, { cache: "no-cache" })).json();
  const known = new Set(["./", ...files].map((file) => new URL(file, self.registration.scope).href));
  const cache = await caches.open(NAME);
  for (const request of await cache.keys()) if (!known.has(request.url)) await cache.delete(request);
}

async function answer(event) {
  const { request } = event;
  let response;
  try {
    response = await fetch(request);
  } catch (error) {
    const cache = await caches.open(NAME);
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
  const cache = await caches.open(NAME);
  const kept = await cache.match(request);
  // only what is kept already is renewed, and what cannot be kept (no space is left) is shown all the same
  if (kept && response.ok && !same(kept, response)) event.waitUntil(cache.put(request, response.clone()).catch(() => {}));
  return response;
}

/** Whether two answers are of the same content, as far as their headers say. */
function same(one, other) {
  if (!one) return false;
  const names = ["etag", "last-modified"].filter((name) => other.headers.has(name));
  return names.length > 0 && names.every((name) => one.headers.get(name) === other.headers.get(name));
}
