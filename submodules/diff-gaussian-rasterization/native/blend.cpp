// SPDX-License-Identifier: Apache-2.0
// Per tile: blends its Gaussians front to back, and computes the derivative in the same order.
//
// A tile's pixels stay in the nearest cache. Each Gaussian is first tested against all blocks of the tile at once, and
// then evaluated in the blocks that it reaches, one pixel per lane.
//
// The backward pass repeats the forward arithmetic, operation by operation, so that transmittances and the decisions where
// to stop are the same. The colour behind a Gaussian is the final colour without the contributions up to it.
#include <cstring>

#include "blend_step.h"
#include "thread_pool.h"

namespace rasterizer {
namespace {

constexpr int kBatch = 32;          // entries tested before any of them is blended
constexpr int kAhead = kBatch;      // entries whose Gaussians are prefetched
constexpr int kAheadBackward = 8;   // the same in the backward pass, where each takes longer

// ---------------------------------------------------------------------------------------------------------------------
// Forward

// Sums over the Gaussians in front, for the pixels of a block.
struct Accumulated {
  Lanes transmittance;
  Lanes channel[4];  // red, green, blue, inverse depth
};

// Blends one Gaussian into the blocks `todo`; returns those in which it changed a pixel. Blocks that take no more
// Gaussians are removed from `open`.
template <int kChannels, class Samples>
inline BlockMask blend_entry(const Splat& splat, const Tile& tile, const Samples& samples, BlockMask todo, BlockMask& open,
                             Accumulated* blocks) {
  const Spread spread(splat, tile);
  const Float color[4] = {Float(splat.red), Float(splat.green), Float(splat.blue), Float(splat.inverse_depth)};
  BlockMask changed = 0;
  for (; todo != 0; todo &= static_cast<BlockMask>(todo - 1)) {
    const int block = lowest_block(todo);
    Accumulated& sums = blocks[block];
    const Float transmittance = sums.transmittance;
    const Step step = step_into(spread, samples, block, transmittance);
    changed |= static_cast<BlockMask>(BlockMask{any(step.drawn)} << block);
    const Float weight = select(step.blended, step.alpha * transmittance, Float(0.0f));
    for (int c = 0; c < kChannels; ++c) sums.channel[c] = simd::fmadd(weight, color[c], sums.channel[c]);
    sums.transmittance = step.transmittance;
    if (all_negative(step.transmittance)) open &= static_cast<BlockMask>(~bit_of(block));
  }
  return changed;
}

// A whole batch is tested first: the processor predicts badly how many blocks a Gaussian reaches, and a
// misprediction is costly only while the test that it depends on is still running.
template <int kChannels, class Samples>
void blend_entries(Frame& frame, int64_t index, const Tile& tile, const Samples& samples, Accumulated* blocks) {
  BlockMask open = 0;
  for (int block = 0; block < kBlocks; ++block) {
    const Float first = first_transmittance(tile, block);
    blocks[block].transmittance = first;
    for (Lanes& sum : blocks[block].channel) sum = Float(0.0f);
    if (!all_negative(first)) open |= bit_of(block);
  }
  const uint32_t begin = frame.tile_begin[index], end = frame.tile_begin[index + 1];
  const Entry* entries = frame.entries.data();
  uint32_t i = begin;
  while (i < end && open != 0) {
    const uint32_t batch_end = end - i < kBatch ? end : i + kBatch;
    BlockMask reached[kBatch];
    for (uint32_t j = i; j < batch_end; ++j) {
      call_for<kAhead>(frame, entries + j, entries + end);
      const Splat& splat = frame.splats[entries[j].gaussian];
      reached[j - i] = blocks_reached(Spread(splat, tile), splat, samples.margin());
    }
    for (uint32_t first = i; i < batch_end && open != 0; ++i) {
      const BlockMask todo = reached[i - first] & open;
      const Splat& splat = frame.splats[entries[i].gaussian];
      const BlockMask changed = blend_entry<kChannels>(splat, tile, samples, todo, open, blocks);
      if (frame.kept) frame.masks[i] = changed;
    }
  }
  frame.tile_used[index] = i - begin;
}

// Adds the background behind what is not opaque.
void add_background(const Camera& camera, Accumulated& sums) {
  const Float transmittance = sums.transmittance;
  const Float left_over = simd::maximum(transmittance, -transmittance);
  for (int c = 0; c < 3; ++c) {
    sums.channel[c] = simd::fmadd(left_over, Float(camera.background[c]), sums.channel[c]);
  }
}

// In this order NaN is kept.
Float limited(Float color) { return simd::minimum(Float(1.0f), simd::maximum(Float(0.0f), color)); }

template <int kChannels>
void blend_tile(Frame& frame, const Outputs& outputs, int64_t index) {
  const Tile tile = tile_at(frame, index);
  Accumulated blocks[kBlocks];
  with_samples(frame, tile, [&](const auto& samples) { blend_entries<kChannels>(frame, index, tile, samples, blocks); });
  float* kept = frame.kept ? frame.pixels.data() + index * 4 * kTilePixels : nullptr;
  for (int block = 0; block < kBlocks; ++block) {
    Accumulated& sums = blocks[block];
    add_background(frame.camera, sums);
    if (kept != nullptr) std::memcpy(kept + block * 4 * kLanes, sums.channel, sizeof sums.channel);
    for (int c = 0; c < 3 && frame.clamped; ++c) sums.channel[c] = limited(sums.channel[c]);
  }
  const int64_t plane = static_cast<int64_t>(frame.camera.width) * frame.camera.height;
  for (int c = 0; c < kChannels; ++c) {
    float* out = c < 3 ? outputs.image + c * plane : outputs.inverse_depth;
    for_each_run(tile, frame.camera.width, [&](int64_t pixel, int block, int lane, int count) {
      copy_run(out + pixel, blocks[block].channel[c].value + lane, count);
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward

// For the pixels of a block.
template <int kChannels>
struct Replayed {
  Lanes transmittance;
  Lanes behind;                 // derivative times colour, of all Gaussians not yet visited
  Lanes derivative[kChannels];  // of the loss, for the final colour and inverse depth
};

template <int kChannels>
void prepare_replay(const Frame& frame, const Tile& tile, int64_t index, const float* d_image,
                    const float* d_inverse_depth, Replayed<kChannels>* blocks) {
  const float* kept = frame.pixels.data() + index * 4 * kTilePixels;
  const int64_t plane = static_cast<int64_t>(frame.camera.width) * frame.camera.height;
  const Float zero = Float(0.0f), one = Float(1.0f);
  for (int block = 0; block < kBlocks; ++block) {
    for (Lanes& derivative : blocks[block].derivative) derivative = zero;
  }
  for (int c = 0; c < kChannels; ++c) {
    const float* source = c < 3 ? d_image + c * plane : d_inverse_depth;
    for_each_run(tile, frame.camera.width, [&](int64_t pixel, int block, int lane, int count) {
      copy_run(blocks[block].derivative[c].value + lane, source + pixel, count);
    });
  }
  for (int block = 0; block < kBlocks; ++block) {
    Replayed<kChannels>& replayed = blocks[block];
    Float behind = zero;
    for (int c = 0; c < kChannels; ++c) {
      const Float color = Float::load(kept + (block * 4 + c) * kLanes);
      if (c < 3 && frame.clamped) {
        const Mask beyond = (color < zero) | (one < color);
        replayed.derivative[c] = select(beyond, zero, replayed.derivative[c]);
      }
      behind = simd::fmadd(color, replayed.derivative[c], behind);
    }
    replayed.behind = behind;
    replayed.transmittance = first_transmittance(tile, block);
  }
}

// The sums of TileGradient, for each lane, in that order.
template <int kChannels>
struct LaneSums {
  Float moment[6];  // s times 1, dx, dy, dx dx, dx dy, dy dy
  Float channel[kChannels];

  LaneSums() {
    for (Float& value : moment) value = Float(0.0f);
    for (Float& value : channel) value = Float(0.0f);
  }

  void store(TileGradient& out) const {
    Float all[10];
    for (int i = 0; i < 6; ++i) all[i] = moment[i];
    for (int i = 0; i < 4; ++i) all[6 + i] = i < kChannels ? channel[i] : Float(0.0f);
    sum_each(all, &out.s);
  }
};

template <int kChannels, class Samples>
inline void block_backward(const Spread& spread, const Samples& samples, const Float (&color)[4], int block,
                           Replayed<kChannels>& replayed, LaneSums<kChannels>& sums) {
  const Float transmittance = replayed.transmittance;
  const Step step = step_into(spread, samples, block, transmittance);
  replayed.transmittance = step.transmittance;
  const Float zero = Float(0.0f);
  const Float weight = select(step.blended, step.alpha * transmittance, zero);
  Float along = color[0] * replayed.derivative[0];  // colour times derivative
  for (int c = 1; c < kChannels; ++c) along = simd::fmadd(color[c], replayed.derivative[c], along);
  for (int c = 0; c < kChannels; ++c) sums.channel[c] = simd::fmadd(weight, replayed.derivative[c], sums.channel[c]);
  const Float behind = simd::fnmadd(weight, along, replayed.behind);
  replayed.behind = behind;
  const Float passes = simd::reciprocal(Float(1.0f) - step.alpha);
  const Float d_alpha = simd::fnmadd(behind, passes, transmittance * along);
  const Float s = select(step.blended, step.opacity_times_falloff * d_alpha, zero);
  const Float s_dx = s * step.dx, s_dy = s * step.dy;
  sums.moment[0] += s;
  sums.moment[1] += s_dx;
  sums.moment[2] += s_dy;
  sums.moment[3] = simd::fmadd(s_dx, step.dx, sums.moment[3]);
  sums.moment[4] = simd::fmadd(s_dx, step.dy, sums.moment[4]);
  sums.moment[5] = simd::fmadd(s_dy, step.dy, sums.moment[5]);
}

template <int kChannels, class Samples>
void replay_entries(Frame& frame, int64_t index, const Tile& tile, const Samples& samples, Replayed<kChannels>* blocks) {
  const uint32_t used = frame.tile_used[index];
  const Entry* entries = frame.entries.data() + frame.tile_begin[index];
  const BlockMask* masks = frame.masks.data() + frame.tile_begin[index];
  for (uint32_t i = 0; i < used; ++i) {
    call_for<kAheadBackward>(frame, entries + i, entries + used);
    if (masks[i] == 0) continue;
    const Splat& splat = frame.splats[entries[i].gaussian];
    const Spread spread(splat, tile);
    const Float color[4] = {Float(splat.red), Float(splat.green), Float(splat.blue), Float(splat.inverse_depth)};
    LaneSums<kChannels> sums;
    for (BlockMask todo = masks[i]; todo != 0; todo &= static_cast<BlockMask>(todo - 1)) {
      const int block = lowest_block(todo);
      block_backward(spread, samples, color, block, blocks[block], sums);
    }
    sums.store(frame.gradients[entries[i].slot]);
    frame.written[entries[i].slot] = 1;
  }
}

template <int kChannels>
void blend_tile_backward(Frame& frame, const float* d_image, const float* d_inverse_depth, int64_t index) {
  if (frame.tile_used[index] == 0) return;
  const Tile tile = tile_at(frame, index);
  Replayed<kChannels> blocks[kBlocks];
  prepare_replay(frame, tile, index, d_image, d_inverse_depth, blocks);
  with_samples(frame, tile, [&](const auto& samples) { replay_entries(frame, index, tile, samples, blocks); });
}

}  // namespace

void blend(Frame& frame, const Outputs& outputs, int threads) {
  const int64_t tiles = frame.tiles();
  frame.tile_used.reserve(tiles);
  if (frame.kept) {
    frame.masks.reserve(frame.tile_begin[tiles]);
    frame.pixels.reserve(tiles * 4 * kTilePixels);
  }
  ThreadPool::run(threads, tiles, [&](int64_t tile, int) {
    if (outputs.inverse_depth != nullptr) {
      blend_tile<4>(frame, outputs, tile);
    } else {
      blend_tile<3>(frame, outputs, tile);
    }
  });
}

void blend_backward(Frame& frame, const float* d_image, const float* d_inverse_depth, int threads) {
  const int64_t tiles = frame.tiles();
  const uint32_t slots = frame.tile_begin[tiles];
  frame.gradients.reserve(slots);
  std::memset(frame.written.reserve(slots), 0, slots);
  ThreadPool::run(threads, tiles, [&](int64_t tile, int) {
    if (d_inverse_depth != nullptr) {
      blend_tile_backward<4>(frame, d_image, d_inverse_depth, tile);
    } else {
      blend_tile_backward<3>(frame, d_image, nullptr, tile);
    }
  });
}

}  // namespace rasterizer
