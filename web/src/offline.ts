/** A second visit offline: the service worker keeps the page, and the networks that were used. */

let registered: Promise<ServiceWorkerRegistration> | undefined;

/**
 * Let the service worker keep the page, and files of networks.
 *
 * Called when these are loaded, so that it takes nothing from their way here. Browsers have service workers on pages from
 * https and from this device only; elsewhere the page works as before, online.
 */
export function keepForOffline(files: string[]): void {
  if (!("serviceWorker" in navigator)) return;
  registered ??= navigator.serviceWorker.register("./sw.js").then(() => navigator.serviceWorker.ready);
  registered
    .then((registration) => {
      const addresses = files.map((file) => new URL(file, document.baseURI).href);
      registration.active?.postMessage({ keep: addresses });
    })
    .catch(() => {}); // a private window, or no room: only offline use is lost
}
