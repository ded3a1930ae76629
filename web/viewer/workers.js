// SPDX-License-Identifier: Apache-2.0
// Starts a worker of this folder; in the self-contained page its source is a part of the page.

const addresses = new Map();

export function startWorker(name) {
  const inPage = document.getElementById(name);
  if (!inPage) return new Worker(new URL(`./${name}.js`, import.meta.url), { type: "module" });
  if (!addresses.has(name)) {
    addresses.set(name, URL.createObjectURL(new Blob([inPage.textContent], { type: "text/javascript" })));
  }
  return new Worker(addresses.get(name));
}
