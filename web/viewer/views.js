// SPDX-License-Identifier: Apache-2.0
// Where a picture is seen from.
//
// A view is {position, axes: [right, down, forward], distance, lens: {fx, fy, width, height}}: unit vectors in the world, the
// distance of the point to turn around, focal lengths in pixels of a picture of the lens' size.

import { add, cross, dot, length, scale, solve, subtract, turned, unit } from "./maths.js";

const FIELD_OF_VIEW = (50 * Math.PI) / 180;
const NEAREST_TO_POLE = 0.03; // radians

// The lens for models without cameras.
export function plainLens() {
  const height = 1000;
  const focal = height / 2 / Math.tan(FIELD_OF_VIEW / 2);
  return { fx: focal, fy: focal, width: height, height };
}

// Before anything is known.
export const startView = () => ({
  position: [0, 0, -5],
  axes: [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ],
  distance: 5,
  lens: plainLens(),
});

// The view of an entry of cameras.json; `middle` is the scene's, around which the view turns later.
export function viewOfCamera({ position, rotation, fx, fy, width, height }, middle) {
  const axes = [0, 1, 2].map((c) => unit(rotation.map((row) => row[c])));
  const ahead = dot(subtract(middle, position), axes[2]);
  const away = length(subtract(middle, position));
  return { position, axes, distance: Math.max(ahead, 0.1 * away, 1e-3), lens: { fx, fy, width, height } };
}

// From the point to turn around: at 0, or at infinity, no wheel would bring it back.
const LEAST_DISTANCE = 1e-6;
const MOST_DISTANCE = 1e12;

// The point that is nearest to all cameras' optical axes, and the mean distance from it; null where the axes are parallel.
export function focusOf(cameras) {
  const matrix = [0, 0, 0, 0, 0, 0];
  let sum = [0, 0, 0];
  for (const { position, rotation } of cameras) {
    const d = unit(rotation.map((row) => row[2]));
    const part = [1 - d[0] * d[0], -d[0] * d[1], -d[0] * d[2], 1 - d[1] * d[1], -d[1] * d[2], 1 - d[2] * d[2]];
    part.forEach((value, i) => (matrix[i] += value));
    sum = add(sum, subtract(position, scale(d, dot(d, position))));
  }
  const middle = cameras.length > 1 ? solve(matrix, sum) : null;
  if (!middle) return null;
  const distances = cameras.map(({ position }) => length(subtract(position, middle)));
  return { middle, radius: distances.reduce((a, b) => a + b, 0) / cameras.length };
}

// The mean upward direction of the cameras; null where they do not agree.
export function upOf(cameras) {
  const sum = cameras.reduce((total, { rotation }) => add(total, unit(rotation.map((row) => -row[1]))), [0, 0, 0]);
  return cameras.length && length(sum) / cameras.length >= 0.5 ? unit(sum) : null;
}

const targetOf = (view) => add(view.position, scale(view.axes[2], view.distance));

// Turned around the target: about the world's upward axis, then about the view's own horizontal axis.
export function orbited(view, up, about, aside) {
  const target = targetOf(view);
  const axes = rotated(view.axes, up, about, aside);
  return { ...view, axes, position: subtract(target, scale(axes[2], view.distance)) };
}

// Turned on the spot.
export const lookedAround = (view, up, about, aside) => ({ ...view, axes: rotated(view.axes, up, about, aside) });

function rotated(axes, up, about, aside) {
  const spun = axes.map((axis) => turned(axis, up, about));
  const tilted = spun.map((axis) => turned(axis, spun[0], aside));
  const toPole = (forward) => Math.acos(Math.min(1, Math.abs(dot(forward, up))));
  const isAllowed = toPole(tilted[2]) > NEAREST_TO_POLE || toPole(tilted[2]) > toPole(spun[2]);
  return orthonormal(isAllowed ? tilted : spun);
}

function orthonormal([right, , forward]) {
  const ahead = unit(forward);
  const aside = unit(subtract(right, scale(ahead, dot(ahead, right))));
  return [aside, cross(ahead, aside), ahead];
}

// Moved by amounts along the view's axes.
export function moved(view, right, down, forward) {
  const [x, y, z] = view.axes;
  return { ...view, position: add(view.position, add(add(scale(x, right), scale(y, down)), scale(z, forward))) };
}

// Nearer to the target, or farther away from it.
export function zoomed(view, factor) {
  const distance = Math.min(Math.max(view.distance * factor, LEAST_DISTANCE), MOST_DISTANCE);
  return { ...view, distance, position: subtract(targetOf(view), scale(view.axes[2], distance)) };
}
