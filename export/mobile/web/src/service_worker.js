// Keeps the page's files on the device, so that it opens without a network. The files of a build
// belong together: a new build gets a cache of its own, used once the page of the old one is closed.
import { supportsFeature } from "@litertjs/core";

// BUILD, FILES and RUNTIMES are set by build.mjs. Other pages of the same server have other scopes.
const CACHES = `layerseg ${registration.scope} `;
const CACHE = CACHES + BUILD;

/** The runtime that LiteRT.js loads in this browser. */
async function runtime() {
  const name = (await supportsFeature("relaxedSimd")) ? RUNTIMES[0] : RUNTIMES[1];
  return [`wasm/${name}.js`, `wasm/${name}.wasm`];
}

addEventListener("install", (event) => {
  const store = async () => {
    const cache = await caches.open(CACHE);
    const files = ["./", ...FILES, ...(await runtime())];
    // The server is asked whether what the browser has is still current.
    await cache.addAll(files.map((file) => new Request(file, { cache: "no-cache" })));
  };
  event.waitUntil(store());
});

addEventListener("activate", (event) => {
  const clean = async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith(CACHES) && name !== CACHE) await caches.delete(name);
    }
    await clients.claim();
  };
  event.waitUntil(clean());
});

addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method !== "GET" || new URL(url).origin !== location.origin) return;
  const answer = async () => {
    const cache = await caches.open(CACHE);
    return (await cache.match(event.request, { ignoreSearch: true })) ?? fetch(event.request);
  };
  event.respondWith(answer());
});
