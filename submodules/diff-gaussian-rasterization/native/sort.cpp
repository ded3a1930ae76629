// SPDX-License-Identifier: Apache-2.0
// Which Gaussians each tile draws, front to back.
//
// The Gaussians, not their many tile entries, are sorted by depth (radix sort, least significant digit first); then a
// counting sort by tile keeps that order. Both are stable, so ties are in order of index for any number of threads.
#include <algorithm>

#include "frame.h"
#include "thread_pool.h"

namespace rasterizer {
namespace {

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kDepthShift = 32;  // the key's low half is the index, which is in order already
constexpr uint32_t kWorthSharing = 1 << 14;

struct Range {
  uint32_t begin, end;
};

Range part_of(uint32_t count, int64_t part, int parts) {
  const auto cut = [&](int64_t p) { return static_cast<uint32_t>(static_cast<uint64_t>(count) * p / parts); };
  return {cut(part), cut(part + 1)};
}

// Turns counts[part][bin] into the place where that part writes its first item of that bin; returns the number of items.
uint32_t places_from_counts(uint32_t* counts, int parts, int64_t bins, uint32_t* bin_begin) {
  uint32_t place = 0;
  for (int64_t bin = 0; bin < bins; ++bin) {
    if (bin_begin != nullptr) bin_begin[bin] = place;
    for (int part = 0; part < parts; ++part) {
      uint32_t& count = counts[part * bins + bin];
      const uint32_t next = place + count;
      count = place;
      place = next;
    }
  }
  return place;
}

void radix_pass(const uint64_t* from, uint64_t* to, uint32_t count, int shift, uint32_t* counts, int parts) {
  const auto digit = [shift](uint64_t key) { return (key >> shift) & (kDigits - 1); };
  ThreadPool::run(parts, parts, [&](int64_t part, int) {
    uint32_t* mine = counts + part * kDigits;
    std::fill(mine, mine + kDigits, 0u);
    const Range range = part_of(count, part, parts);
    for (uint32_t i = range.begin; i < range.end; ++i) ++mine[digit(from[i])];
  });
  places_from_counts(counts, parts, kDigits, nullptr);
  ThreadPool::run(parts, parts, [&](int64_t part, int) {
    uint32_t* mine = counts + part * kDigits;
    const Range range = part_of(count, part, parts);
    for (uint32_t i = range.begin; i < range.end; ++i) to[mine[digit(from[i])]++] = from[i];
  });
}

// The keys in order of depth; `frame.keys` and `frame.keys_swap` are both used.
const uint64_t* sort_by_depth(Frame& frame, int threads) {
  const int parts = frame.drawn < kWorthSharing ? 1 : threads;
  uint32_t* counts = frame.histograms.reserve(static_cast<size_t>(parts) * kDigits);
  uint64_t* from = frame.keys.data();
  uint64_t* to = frame.keys_swap.data();
  for (int shift = kDepthShift; shift < 64; shift += kDigitBits) {
    radix_pass(from, to, frame.drawn, shift, counts, parts);
    std::swap(from, to);
  }
  return from;
}

// Calls visit(tile) for each tile that the Gaussian reaches, in row-major order.
template <class Visit>
void for_each_tile(const Frame& frame, uint32_t gaussian, Visit&& visit) {
  const Cover& cover = frame.covers[gaussian];
  const int width = cover.x1 - cover.x0;
  if (width * (cover.y1 - cover.y0) <= kMaskTiles) {
    const uint64_t whole_row = ~uint64_t{0} >> (64 - width);
    uint64_t mask = cover.mask;
    for (int64_t tile = static_cast<int64_t>(cover.y0) * frame.columns + cover.x0; mask != 0; tile += frame.columns) {
      for (uint64_t row = mask & whole_row; row != 0; row &= row - 1) visit(tile + __builtin_ctzll(row));
      mask = width == 64 ? 0 : mask >> width;
    }
    return;
  }
  using formulas::TileRectangle;
  const formulas::Reach<float>& reach = frame.reaches[gaussian];
  const TileRectangle<float> within = {static_cast<float>(cover.x0), static_cast<float>(cover.y0),
                                       static_cast<float>(cover.x1), static_cast<float>(cover.y1)};
  for (int row = cover.y0; row < cover.y1; ++row) {
    const formulas::TileSpan<float> span = formulas::tiles_reached(reach, within, static_cast<float>(row));
    const int64_t first = static_cast<int64_t>(row) * frame.columns;
    for (int column = static_cast<int>(span.begin); column < static_cast<int>(span.end); ++column) visit(first + column);
  }
}

constexpr uint32_t kAhead = 8;  // Gaussians whose data are prefetched

// Inlined by force: GCC treats a function that only prefetches as one without effect, and may drop its calls.
__attribute__((always_inline)) inline void prefetch(const Frame& frame, const uint64_t* order, uint32_t i, uint32_t end) {
  if (i + kAhead >= end) return;
  const uint32_t gaussian = static_cast<uint32_t>(order[i + kAhead]);
  __builtin_prefetch(&frame.covers[gaussian]);
  __builtin_prefetch(&frame.first_slot[gaussian]);
}

}  // namespace

void sort_into_tiles(Frame& frame, int threads) {
  const uint64_t* order = sort_by_depth(frame, threads);
  const int64_t tiles = frame.tiles();
  const int parts = frame.drawn < kWorthSharing ? 1 : threads;
  uint32_t* counts = frame.histograms.reserve(static_cast<size_t>(parts) * tiles);
  uint32_t* tile_begin = frame.tile_begin.reserve(tiles + 1);
  Entry* entries = frame.entries.reserve(frame.first_slot[frame.count]);
  ThreadPool::run(parts, parts, [&](int64_t part, int) {
    uint32_t* mine = counts + part * tiles;
    std::fill(mine, mine + tiles, 0u);
    const Range range = part_of(frame.drawn, part, parts);
    for (uint32_t i = range.begin; i < range.end; ++i) {
      prefetch(frame, order, i, range.end);
      for_each_tile(frame, static_cast<uint32_t>(order[i]), [mine](int64_t tile) { ++mine[tile]; });
    }
  });
  tile_begin[tiles] = places_from_counts(counts, parts, tiles, tile_begin);
  ThreadPool::run(parts, parts, [&](int64_t part, int) {
    uint32_t* mine = counts + part * tiles;
    const Range range = part_of(frame.drawn, part, parts);
    for (uint32_t i = range.begin; i < range.end; ++i) {
      prefetch(frame, order, i, range.end);
      const uint32_t gaussian = static_cast<uint32_t>(order[i]);
      uint32_t slot = frame.first_slot[gaussian];
      for_each_tile(frame, gaussian, [&](int64_t tile) { entries[mine[tile]++] = {gaussian, slot++}; });
    }
  });
}

}  // namespace rasterizer
