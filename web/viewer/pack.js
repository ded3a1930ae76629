// SPDX-License-Identifier: Apache-2.0
// Decoded Gaussians in the layout of the data textures (cloud.js).

const LARGEST_HALF = 65504;
const HALVES_PER_TEXEL = 8;
const single = new Float32Array(1);
const singleBits = new Uint32Array(single.buffer);

// Layers of the harmonics' texture: texels of 8 halves that the coefficients of a Gaussian need.
export const harmonicLayers = (degree) => Math.ceil((3 * (degree + 1) ** 2) / HALVES_PER_TEXEL);

// The bits of the nearest half-precision number, within the finite range.
function halfBits(value) {
  single[0] = Math.min(Math.max(value, -LARGEST_HALF), LARGEST_HALF);
  const bits = singleBits[0];
  const sign = (bits >>> 16) & 0x8000;
  const exponent = (bits >>> 23) & 0xff;
  const fraction = bits & 0x7fffff;
  if (exponent >= 113) return sign | ((((exponent - 112) << 10) | (fraction >>> 13)) + ((fraction >>> 12) & 1));
  if (exponent < 102) return sign;
  return sign | ((((fraction | 0x800000) >>> (125 - exponent)) + 1) >>> 1);
}

// A Model of f3dgs.js or ply.js as typed arrays for the textures: activated, rotations normalised. Gaussians that no renderer
// can show (a position that is not finite, an infinite size) get the opacity 0 and are not drawn.
export function pack(model) {
  const { count, shDegree } = model;
  const parts = {
    count,
    positions: new Float32Array(4 * count),
    centres: model.xyz,
    scales: new Float32Array(3 * count),
    rotations: new Float32Array(4 * count),
    harmonics: Array.from({ length: harmonicLayers(shDegree) }, () => new Uint32Array(4 * count)),
  };
  packShapes(model, parts);
  packHarmonics(model, parts);
  return parts;
}

function packShapes({ count, xyz, opacity, scaling, rotation }, { positions, scales, rotations }) {
  for (let i = 0; i < count; i += 1) {
    let sum = 0;
    let norm = 0;
    for (let c = 0; c < 3; c += 1) {
      positions[4 * i + c] = xyz[3 * i + c];
      scales[3 * i + c] = Math.exp(scaling[3 * i + c]);
      sum += xyz[3 * i + c] + scales[3 * i + c];
    }
    for (let c = 0; c < 4; c += 1) norm += rotation[4 * i + c] ** 2;
    const inverse = 1 / Math.max(Math.sqrt(norm), 1e-12);
    for (let c = 0; c < 4; c += 1) rotations[4 * i + c] = rotation[4 * i + c] * inverse;
    const isShown = Number.isFinite(sum + norm) && !Number.isNaN(opacity[i]);
    positions[4 * i + 3] = isShown ? 1 / (1 + Math.exp(-opacity[i])) : 0;
  }
}

function packHarmonics({ count, shDegree, featuresDc, featuresRest }, { harmonics }) {
  const higher = 3 * ((shDegree + 1) ** 2 - 1);
  for (let i = 0; i < count; i += 1) {
    for (let k = 0; k < higher + 3; k += 1) {
      const value = k < 3 ? featuresDc[3 * i + k] : featuresRest[higher * i + k - 3];
      harmonics[k >>> 3][4 * i + ((k & 7) >>> 1)] |= halfBits(value) << (16 * (k & 1));
    }
  }
}
