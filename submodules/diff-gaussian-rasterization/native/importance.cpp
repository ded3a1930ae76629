// SPDX-License-Identifier: Apache-2.0
// Per tile: repeats the blending of a view, and sums what each Gaussian contributes.
#include <algorithm>
#include <cmath>

#include "blend_step.h"
#include "thread_pool.h"

namespace rasterizer {
namespace {

constexpr int kAhead = 8;  // entries whose Gaussians are prefetched

// For the pixels of a block.
struct Seen {
  Lanes transmittance;
  Lanes weight;  // of the pixels themselves
};

void prepare(const Frame& frame, const Tile& tile, const float* pixel_weights, Seen* blocks) {
  for (int block = 0; block < kBlocks; ++block) {
    blocks[block].transmittance = first_transmittance(tile, block);
    blocks[block].weight = Float(1.0f);
  }
  if (pixel_weights == nullptr) return;
  for_each_run(tile, frame.camera.width, [&](int64_t pixel, int block, int lane, int count) {
    copy_run(blocks[block].weight.value + lane, pixel_weights + pixel, count);
  });
}

// The contribution of one entry. The record is that of the backward pass: s holds the sum, sx the count, sy the largest.
template <class Samples>
void measure_entry(const Splat& splat, const Tile& tile, const Samples& samples, BlockMask todo, Seen* blocks,
                   TileGradient& record) {
  const Spread spread(splat, tile);
  const Float zero = Float(0.0f), one = Float(1.0f);
  Lanes sum, count, largest;
  sum = zero;
  count = zero;
  largest = Float(-INFINITY);  // weights of pixels may be negative
  for (; todo != 0; todo &= static_cast<BlockMask>(todo - 1)) {
    const int block = lowest_block(todo);
    Seen& seen = blocks[block];
    const Float transmittance = seen.transmittance;
    const Step step = step_into(spread, samples, block, transmittance);
    seen.transmittance = step.transmittance;
    const Float weight = step.alpha * transmittance * seen.weight;
    sum = sum + select(step.blended, weight, zero);
    count = count + select(step.blended, one, zero);
    largest = select(step.blended, simd::maximum(weight, largest), largest);
  }
  record.s = record.sx = 0.0f;
  record.sy = largest.value[0];
  for (int lane = 0; lane < kLanes; ++lane) {
    record.s += sum.value[lane];
    record.sx += count.value[lane];
    record.sy = std::max(record.sy, largest.value[lane]);
  }
}

template <class Samples>
void measure_entries(Frame& frame, int64_t index, const Tile& tile, const Samples& samples, Seen* blocks) {
  const Entry* entries = frame.entries.data() + frame.tile_begin[index];
  const BlockMask* masks = frame.masks.data() + frame.tile_begin[index];
  const uint32_t used = frame.tile_used[index];
  for (uint32_t i = 0; i < used; ++i) {
    call_for<kAhead>(frame, entries + i, entries + used);
    if (masks[i] == 0) continue;
    const Entry entry = entries[i];
    measure_entry(frame.splats[entry.gaussian], tile, samples, masks[i], blocks, frame.gradients[entry.slot]);
    frame.written[entry.slot] = 1;
  }
}

void measure_tile(Frame& frame, const float* pixel_weights, int64_t index) {
  if (frame.tile_used[index] == 0) return;
  const Tile tile = tile_at(frame, index);
  Seen blocks[kBlocks];
  prepare(frame, tile, pixel_weights, blocks);
  with_samples(frame, tile, [&](const auto& samples) { measure_entries(frame, index, tile, samples, blocks); });
}

void sum_up(const Frame& frame, const Importance& importance, int64_t gaussian) {
  int32_t count = 0;
  float weight = 0.0f, largest = -INFINITY;
  for (uint32_t slot = frame.first_slot[gaussian]; slot < frame.first_slot[gaussian + 1]; ++slot) {
    if (!frame.written[slot]) continue;
    const TileGradient& record = frame.gradients[slot];
    weight += record.s;
    count += static_cast<int32_t>(record.sx);
    largest = std::max(largest, record.sy);
  }
  importance.counts[gaussian] = count;
  importance.weights[gaussian] = weight;
  importance.largest[gaussian] = count == 0 ? 0.0f : largest;
}

}  // namespace

void measure_importance(Frame& frame, const Importance& importance, int threads) {
  const uint32_t slots = frame.tile_begin[frame.tiles()];
  frame.gradients.reserve(slots);
  std::memset(frame.written.reserve(slots), 0, slots);
  ThreadPool::run(threads, frame.tiles(), [&](int64_t tile, int) { measure_tile(frame, importance.pixel_weights, tile); });
  ThreadPool::run(threads, frame.chunks(), [&](int64_t chunk, int) {
    const int64_t end = std::min(frame.count, (chunk + 1) * kChunk);
    for (int64_t gaussian = chunk * kChunk; gaussian < end; ++gaussian) sum_up(frame, importance, gaussian);
  });
}

}  // namespace rasterizer
