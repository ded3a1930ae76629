// SPDX-License-Identifier: Apache-2.0
// The Gaussians and their gradients as the caller holds them, for CPUs and GPUs. native.py of the package mirrors the structures.
#pragma once

#include <cstdint>

namespace rasterizer {

// The parameters of the Gaussians; all arrays dense and row-major. Exactly one of scales (with rotations) and covariances,
// and exactly one of dc (with rest) and colors, is not null.
struct Scene {
  int64_t count;
  const float* means;        // (N, 3), world
  const float* opacities;    // (N)
  const float* scales;       // (N, 3)
  const float* rotations;    // (N, 4): w, x, y, z
  const float* covariances;  // (N, 6)
  const float* colors;       // (N, 3)
  const float* dc;           // N rows of 3 floats, `dc_stride` floats apart
  const float* rest;         // N rows of at least 3 (coefficients - 1) floats, `rest_stride` floats apart
  int64_t dc_stride;
  int64_t rest_stride;
  int32_t raw;               // bool: opacities are logits, scales logarithms, rotations of any length
};

// Where the derivatives of the loss go, laid out like Scene; each may be null. Every row is written, zeros included.
struct SceneGradients {
  float* means;
  float* opacities;
  float* scales;
  float* rotations;
  float* covariances;
  float* colors;
  float* dc;
  float* rest;
  int64_t dc_stride;
  int64_t rest_stride;
  int32_t rest_width;     // floats of a row of `rest`; those of degrees not evaluated become 0
  int32_t screen_width;   // floats of a row of `screen`: 2, or 3 with a third that becomes 0
  float* screen;          // dL/d(normalised device coordinates of the centre)
};

}  // namespace rasterizer
