// SPDX-License-Identifier: Apache-2.0
// What a Gaussian does to a pixel. Both passes use only these functions to decide, so that both decide alike.
#pragma once

#include "cuda_frame.h"

namespace cuda {

// Pixel number within a tile -> its place there. A warp has a part of 8 x 4 pixels.
constexpr int kPartWidth = 8, kPartHeight = 4;
DEVICE int part_x(int part) { return part % (kTileSize / kPartWidth) * kPartWidth; }
DEVICE int part_y(int part) { return part / (kTileSize / kPartWidth) * kPartHeight; }
DEVICE int pixel_x(int pixel) { return part_x(pixel / kWarp) + pixel % kPartWidth; }
DEVICE int pixel_y(int pixel) { return part_y(pixel / kWarp) + pixel % kWarp / kPartWidth; }

DEVICE int tile_left(const Frame& frame, int64_t tile) { return static_cast<int>(tile % frame.columns) * kTileSize; }
DEVICE int tile_top(const Frame& frame, int64_t tile) { return static_cast<int>(tile / frame.columns) * kTileSize; }

// The splat with its centre relative to the tile.
DEVICE Splat splat_in_tile(const Frame& frame, uint32_t gaussian, int64_t tile) {
  Splat splat = frame.splats[gaussian];
  splat.x -= static_cast<float>(tile_left(frame, tile));
  splat.y -= static_cast<float>(tile_top(frame, tile));
  return splat;
}

// The entry of this lane, where a warp treats a bucket.
struct LaneEntry {
  int64_t tile;
  uint32_t first;  // of the bucket, among the tile's entries
  uint32_t slot;
  bool present;    // the last bucket of a tile is not full
};

DEVICE LaneEntry lane_entry(const Frame& frame, int64_t bucket) {
  LaneEntry found = {};
  found.tile = frame.bucket_tiles[bucket];
  found.first = static_cast<uint32_t>(bucket - frame.bucket_begin[found.tile]) * kBucket;
  const uint32_t entry = frame.tile_begin[found.tile] + found.first + lane();
  found.present = entry < frame.tile_begin[found.tile + 1];
  if (found.present) found.slot = frame.entry_slots[entry];
  return found;
}

// The splat of a lane's entry, relative to its tile; zeros where there is none.
DEVICE Splat splat_of(const Frame& frame, const LaneEntry& entry) {
  return entry.present ? splat_in_tile(frame, frame.slot_gaussians[entry.slot], entry.tile) : Splat{};
}

// Where a pixel is sampled, within its tile.
struct Sample {
  float x, y;
};

DEVICE Sample sample_of(const Frame& frame, int64_t tile, int pixel) {
  const int x = pixel_x(pixel), y = pixel_y(pixel);
  Sample sample = {static_cast<float>(x), static_cast<float>(y)};
  if (frame.offsets == nullptr) return sample;
  const int column = tile_left(frame, tile) + x, row = tile_top(frame, tile) + y;
  if (column >= frame.camera.width || row >= frame.camera.height) return sample;
  const float* offset = frame.offsets + 2 * (static_cast<int64_t>(row) * frame.camera.width + column);
  return {sample.x + offset[0], sample.y + offset[1]};
}

struct Step {
  float dx, dy;                 // sample - centre
  float opacity_times_falloff;
  float alpha;
  float transmittance;          // after it
  bool blended;
};

// A negative transmittance is that of a pixel that takes no more Gaussians.
DEVICE Step step_into(const Splat& splat, const Sample& sample, float transmittance) {
  Step step;
  step.dx = sample.x - splat.x;
  step.dy = sample.y - splat.y;
  const float exponent =
      formulas::alpha_exponent(splat.xx, splat.xy, splat.yy, splat.log2_opacity, step.dx, step.dy);
  step.opacity_times_falloff = formulas::power_of_two(exponent);
  step.alpha = formulas::minimum(step.opacity_times_falloff, formulas::kAlphaMax);
  const bool drawn = exponent <= splat.log2_opacity && formulas::kAlphaMin <= step.alpha;
  const float next = formulas::fnmadd(transmittance, step.alpha, transmittance);
  step.blended = drawn && formulas::kLeastTransmittance <= next;
  step.transmittance = step.blended ? next : drawn ? -fabsf(transmittance) : transmittance;
  return step;
}

}  // namespace cuda
