// SPDX-License-Identifier: Apache-2.0
// Vectors as arrays of three numbers.

export const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
export const subtract = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
export const scale = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const length = (a) => Math.hypot(a[0], a[1], a[2]);
export const clamp = (x, least, most) => Math.min(Math.max(x, least), most);
export const isVector = (a) => Array.isArray(a) && a.length === 3 && a.every(Number.isFinite);

export function unit(a) {
  const size = length(a);
  return size > 0 ? scale(a, 1 / size) : [0, 0, 0];
}

// `a` turned about the unit vector `axis` by an angle in radians.
export function turned(a, axis, angle) {
  const along = scale(axis, dot(axis, a));
  const across = subtract(a, along);
  return add(along, add(scale(across, Math.cos(angle)), scale(cross(axis, across), Math.sin(angle))));
}

// The solution x of m x = b for a symmetric matrix [xx, xy, xz, yy, yz, zz]; null if m is nearly singular.
export function solve(m, b) {
  const [xx, xy, xz, yy, yz, zz] = m;
  const rows = [
    [xx, xy, xz],
    [xy, yy, yz],
    [xz, yz, zz],
  ];
  const [c0, c1, c2] = [cross(rows[1], rows[2]), cross(rows[2], rows[0]), cross(rows[0], rows[1])];
  const determinant = dot(rows[0], c0);
  if (Math.abs(determinant) < 1e-6 * ((xx + yy + zz) / 3) ** 3) return null;
  return scale(add(add(scale(c0, b[0]), scale(c1, b[1])), scale(c2, b[2])), 1 / determinant);
}
