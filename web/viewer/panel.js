// SPDX-License-Identifier: Apache-2.0
// The page's elements, and small functions on them.

export const element = (id) => document.getElementById(id);

export function fillSelect(select, names, chosen) {
  select.replaceChildren(...names.map((name, i) => new Option(name, String(i), false, i === chosen)));
}

// Buttons of which one is pressed: `choose` is called with the value of the attribute data-`name`.
export function makeChoice(group, name, choose) {
  for (const button of group.children) button.addEventListener("click", () => choose(button.dataset[name]));
  return (value) => {
    for (const button of group.children) button.setAttribute("aria-pressed", String(button.dataset[name] === value));
  };
}

export function showMessage(text) {
  const box = element("message");
  box.hidden = !text;
  box.firstElementChild.textContent = text ?? "";
}

// What is wrong with a file; messages of the server begin with its name already.
export function showFault(name, { message }) {
  showMessage(message.includes(`${name}: `) ? message : `${name}: ${message}`);
}

function formatBytes(bytes) {
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`;
  return `${Math.max(0, bytes / 1e3).toFixed(1)} kB`;
}

const formatCount = (count) => count.toLocaleString("en");

// "name · 12,345 Gaussians · 1.23 MB", or how much of it has arrived.
export function describe({ entry, cloud, arrived, isComplete }) {
  const gaussians = formatCount(cloud?.filled ?? 0);
  const of = cloud && cloud.filled < cloud.total ? ` of ${formatCount(cloud.total)}` : "";
  const bytes = isComplete ? formatBytes(entry.bytes ?? arrived) : `${formatBytes(arrived)} received`;
  const noun = cloud?.total === 1 ? "Gaussian" : "Gaussians";
  return `${entry.name} · ${gaussians}${of} ${noun} · ${bytes}`;
}
