// SPDX-License-Identifier: Apache-2.0
// The first view of a model without cameras: from where most of its detail is seen and little stands in the way.

import { add, cross, dot, length, scale, subtract, unit } from "./maths.js";
import { plainLens } from "./views.js";

const MOST_SAMPLES = 3000;
const AZIMUTHS = 24;
const HEIGHTS = [0.15, 0.45]; // along the upward axis, per unit of horizontal distance
const DISTANCES = [1.0, 1.5, 2.2, 3.2, 4.5]; // in radii
const VIEW_TANGENT = 0.4;
const NEAR_PART = 0.6; // what is nearer than this part of the way to the middle stands in the way
const FOG = 3; // standard deviations within which a Gaussian blurs the whole picture

// Every so many Gaussian of a packed part as rows x, y, z, opacity, largest standard deviation.
export function samplesOf({ count, positions, scales }) {
  const step = Math.max(1, Math.floor(count / MOST_SAMPLES));
  const rows = [];
  for (let i = 0; i < count; i += step) {
    const opacity = positions[4 * i + 3];
    if (opacity < 0.02) continue;
    const size = Math.max(scales[3 * i], scales[3 * i + 1], scales[3 * i + 2]);
    rows.push({ at: [...positions.subarray(4 * i, 4 * i + 3)], opacity, size });
  }
  return rows;
}

const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

// A view (views.js) of the samples; null if there are none.
export function firstView(samples, up) {
  if (!samples.length) return null;
  const middleSize = median(samples.map(({ size }) => size));
  const details = samples.filter(({ size }) => size <= middleSize);
  const middle = [0, 1, 2].map((c) => median(details.map(({ at }) => at[c])));
  const radius = Math.max(median(details.map(({ at }) => length(subtract(at, middle)))), 1e-3);
  let best = null;
  for (const view of candidates(middle, radius, up)) {
    const score = scoreOf(view, samples, details);
    if (!best || score > best.score) best = { score, view };
  }
  return best.view;
}

function* candidates(middle, radius, up) {
  const aside = unit(Math.abs(up[0]) < 0.9 ? cross(up, [1, 0, 0]) : cross(up, [0, 1, 0]));
  const across = cross(up, aside);
  for (let k = 0; k < AZIMUTHS; k += 1) {
    const angle = (2 * Math.PI * k) / AZIMUTHS;
    const outward = add(scale(aside, Math.cos(angle)), scale(across, Math.sin(angle)));
    for (const height of HEIGHTS) {
      const back = unit(add(outward, scale(up, height)));
      for (const distance of DISTANCES) yield lookingFrom(add(middle, scale(back, distance * radius)), middle, up);
    }
  }
}

function lookingFrom(position, middle, up) {
  const forward = unit(subtract(middle, position));
  const right = unit(cross(forward, up));
  const axes = [right, cross(forward, right), forward];
  return { position, axes, distance: length(subtract(middle, position)), lens: plainLens() };
}

// The part of the details inside the picture, without what large or near Gaussians hide.
function scoreOf({ position, axes, distance }, samples, details) {
  const depthAndWidth = (at) => {
    const from = subtract(at, position);
    const depth = dot(from, axes[2]);
    return [depth, Math.hypot(dot(from, axes[0]), dot(from, axes[1])), length(from)];
  };
  let seen = 0;
  for (const { at } of details) {
    const [depth, width] = depthAndWidth(at);
    if (depth > NEAR_PART * distance && width < VIEW_TANGENT * depth) seen += 1 / Math.max(1, depth / distance) ** 2;
  }
  let hidden = 0;
  for (const { at, opacity, size } of samples) {
    const [depth, width, away] = depthAndWidth(at);
    if (away < FOG * size) hidden += opacity;
    else if (depth > 0 && depth < NEAR_PART * distance && width < VIEW_TANGENT * depth) {
      hidden += opacity * Math.min(1, (size / depth / VIEW_TANGENT) ** 2 * 4);
    }
  }
  return (seen / details.length) * Math.exp(-hidden / 3);
}
