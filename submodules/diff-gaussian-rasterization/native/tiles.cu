// SPDX-License-Identifier: Apache-2.0
// From Gaussians in order of depth to the entries of each tile, and to buckets of entries. cuda_frame.h explains the terms.
#include "cuda_frame.h"

using namespace cuda;

struct TilesArguments {
  Frame frame;
  int64_t entries;
};

// How many entries each Gaussian has, in order of depth.
KERNEL(count_in_order, 256, TilesArguments) {
  const Frame& f = arguments.frame;
  const int64_t i = global_thread();
  if (i < f.count) f.slots_before[i] = f.tile_counts[f.order[i]];
}

// One thread a Gaussian, in order of depth.
KERNEL(emit_entries, 256, TilesArguments) {
  const Frame& f = arguments.frame;
  const int64_t i = global_thread();
  if (i >= f.count) return;
  const uint32_t gaussian = f.order[i];
  uint32_t slot = f.slots_before[i];
  f.first_slots[gaussian] = slot;
  if (f.tile_counts[gaussian] == 0) return;
  const TileReach& r = f.reaches[gaussian];
  for (int row = r.y0; row < r.y1; ++row) {
    const formulas::TileSpan<float> span = formulas::tiles_reached(r.reach, rectangle_of(r), static_cast<float>(row));
    for (int column = static_cast<int>(span.begin); column < static_cast<int>(span.end); ++column) {
      f.slot_tiles[slot] = static_cast<uint32_t>(row * f.columns + column);
      f.slot_gaussians[slot] = gaussian;
      ++slot;
    }
  }
}

// One thread an entry, in order of tiles: the first entry of its tile and of all empty ones before it.
KERNEL(find_tiles, 256, TilesArguments) {
  const Frame& f = arguments.frame;
  const int64_t i = global_thread();
  if (i >= arguments.entries) return;
  const int32_t tile = static_cast<int32_t>(f.entry_tiles[i]);
  const int32_t before = i == 0 ? -1 : static_cast<int32_t>(f.entry_tiles[i - 1]);
  for (int32_t t = before + 1; t <= tile; ++t) f.tile_begin[t] = static_cast<uint32_t>(i);
  if (i + 1 < arguments.entries) return;
  for (int32_t t = tile + 1; t <= tiles_of(f); ++t) f.tile_begin[t] = static_cast<uint32_t>(arguments.entries);
}

// How many buckets each tile has; 0 after the last, so that the sum of all stands there when these are summed up.
KERNEL(count_buckets, 256, TilesArguments) {
  const Frame& f = arguments.frame;
  const int64_t tile = global_thread();
  if (tile > tiles_of(f)) return;
  f.bucket_begin[tile] = tile == tiles_of(f) ? 0 : (f.tile_begin[tile + 1] - f.tile_begin[tile] + kBucket - 1) / kBucket;
}
