// SPDX-License-Identifier: Apache-2.0
// What the kernels of a view share: its buffers, in the order in which they are filled. docs/gpu.md lists the kernels.
//
// An entry is one Gaussian in one tile. Its slot is its number in the order (depth of the Gaussian, tile): the slots of a Gaussian are
// consecutive, so that its gradient records can be summed in a fixed order. Entries are then sorted by tile.
#pragma once

#include "cuda_kernel.h"

#include "formulas.h"
#include "scene.h"

namespace cuda {

using formulas::Camera;
using formulas::kTileSize;
using rasterizer::Scene;
using rasterizer::SceneGradients;

constexpr int kTilePixels = kTileSize * kTileSize;
constexpr int kBucket = kWarp;             // entries of a tile whose gradients one warp computes
constexpr int kChannels = 4;               // red, green, blue, inverse depth
constexpr uint32_t kNotDrawn = 0xffffffffu;  // as a depth: behind all that is drawn

// All that blending needs of a Gaussian.
struct alignas(16) Splat {
  float x, y;               // centre, pixels
  float xx, xy, yy;         // exponent of alpha, base 2: xx dx^2 + xy dx dy + yy dy^2 + log2_opacity
  float log2_opacity;
  float channel[kChannels];
  float unused[2];
};
static_assert(sizeof(Splat) == 48, "three loads of 16 bytes");

// Which tiles a Gaussian reaches: in each row from y0 to y1, those that formulas::tiles_reached gives.
struct alignas(16) TileReach {
  formulas::Reach<float> reach;
  uint16_t x0, y0, x1, y1;
};

// Sums over the pixels of one tile, for one Gaussian. s = alpha dL/dalpha, and d = pixel - centre.
struct alignas(8) Record {
  float s, sx, sy, sxx, sxy, syy;
  float channel[kChannels];
};

// Mirrored in cuda_render.py of the package.
struct Frame {
  Camera camera;
  int32_t columns, rows;          // of tiles
  int32_t clamped;                // bool: the image given out is clamped to [0, 1]
  int32_t kept;                   // bool: a backward pass follows
  int64_t count;                  // Gaussians
  const float* offsets;           // (H, W, 2): where pixels are sampled, from their centres; null: there
  // By Gaussian.
  int32_t* radii;                 // pixels; 0: not in view
  Splat* splats;                  // where drawn
  TileReach* reaches;             // where drawn
  uint32_t* depths;               // bits of the depth, or kNotDrawn
  uint32_t* tile_counts;          // tiles reached; 0 where not drawn
  uint32_t* first_slots;
  // In order of depth.
  const uint32_t* order;          // Gaussian
  uint32_t* slots_before;         // entries of all Gaussians in front
  // By slot.
  uint32_t* slot_tiles;
  uint32_t* slot_gaussians;
  Record* records;
  // By tile, each front to back.
  const uint32_t* entry_tiles;
  const uint32_t* entry_slots;
  uint32_t* tile_begin;           // (tiles + 1): first entry
  uint32_t* tile_used;            // entries that were blended before all pixels were opaque
  uint32_t* bucket_begin;         // (tiles + 1): first bucket
  uint32_t* bucket_tiles;         // by bucket
  float* checkpoints;             // (buckets, 1 + kChannels, kTilePixels): transmittance and channels before the bucket
  float* pixels;                  // (tiles, kChannels, kTilePixels): final colour and inverse depth, before clamping
  // Images, planar.
  float* image;                   // (3, H, W)
  float* inverse_depth;           // (1, H, W), or null
};

DEVICE int32_t tiles_of(const Frame& frame) { return frame.columns * frame.rows; }

DEVICE formulas::TileRectangle<float> rectangle_of(const TileReach& r) {
  return {static_cast<float>(r.x0), static_cast<float>(r.y0), static_cast<float>(r.x1), static_cast<float>(r.y1)};
}

}  // namespace cuda
