// SPDX-License-Identifier: Apache-2.0
// Per tile: blends its Gaussians front to back, and computes the derivative in the same order.
//
// A tile's pixels stay in the nearest cache. Each Gaussian is first tested against all blocks of the tile at once, and
// then evaluated in the blocks that it reaches, one pixel per lane.
//
// The backward pass repeats the forward arithmetic, operation by operation, so that transmittances and the decisions where
// to stop are the same. The colour behind a Gaussian is the final colour without the contributions up to it.
#include <cstring>

#include "frame.h"
#include "thread_pool.h"

namespace rasterizer {
namespace {

using simd::Float;
using simd::kLanes;
using simd::Mask;

constexpr float kLeastExponent = -7.99435344f;  // log2(kAlphaMin)
constexpr float kRoundingSlack = 2.0e-3f;       // so that rounding in the test of a block never omits a pixel
constexpr int kBatch = 32;                      // entries tested before any of them is blended
constexpr int kAhead = kBatch;                  // entries whose Gaussians are prefetched
constexpr int kAheadBackward = 8;               // the same in the backward pass, where each takes longer

// Pixel coordinates within the tile: of the first pixel of each block, and within a block of each lane.
struct Layout {
  alignas(64) float block_x[kBlocks];
  alignas(64) float block_y[kBlocks];
  alignas(64) float lane_x[kLanes];
  alignas(64) float lane_y[kLanes];
  constexpr Layout() : block_x(), block_y(), lane_x(), lane_y() {
    for (int b = 0; b < kBlocks; ++b) {
      block_x[b] = static_cast<float>(b % kBlocksPerRow * kBlockWidth);
      block_y[b] = static_cast<float>(b / kBlocksPerRow * kBlockHeight);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      lane_x[lane] = static_cast<float>(lane % kBlockWidth);
      lane_y[lane] = static_cast<float>(lane / kBlockWidth);
    }
  }
};
constexpr Layout kLayout;

int lowest_block(BlockMask mask) { return __builtin_ctzll(mask); }

struct Tile {
  int32_t left, top;  // first pixel
  int32_t width, height;  // of the part inside the image
};

Tile tile_at(const Frame& frame, int64_t index) {
  const int32_t left = static_cast<int32_t>(index % frame.columns) * kTileSize;
  const int32_t top = static_cast<int32_t>(index / frame.columns) * kTileSize;
  const auto inside = [](int32_t first, int32_t size) { return size - first < kTileSize ? size - first : kTileSize; };
  return {left, top, inside(left, frame.camera.width), inside(top, frame.camera.height)};
}

// A value for each pixel of a block.
struct alignas(sizeof(float) * kLanes) Lanes {
  float value[kLanes];
  operator Float() const { return Float::load(value); }
  void operator=(Float lanes) { lanes.store(value); }
};

// The transmittance of a pixel before any Gaussian: 1, or -1 outside the image. Pixels that take no more Gaussians have a
// negative transmittance of the correct magnitude.
Float first_transmittance(const Tile& tile, int block) {
  const Float x = Float::load(kLayout.lane_x) + Float(kLayout.block_x[block]);
  const Float y = Float::load(kLayout.lane_y) + Float(kLayout.block_y[block]);
  const Mask inside = (x < Float(static_cast<float>(tile.width))) & (y < Float(static_cast<float>(tile.height)));
  return select(inside, Float(1.0f), Float(-1.0f));
}

constexpr BlockMask bit_of(int block) { return static_cast<BlockMask>(BlockMask{1} << block); }

// A Gaussian's numbers in every lane, its centre relative to the tile.
struct Spread {
  Float x, y, xx, xy, yy, log2_opacity;
  Float lane_dx, lane_dy;  // pixel - centre, in the tile's first block

  Spread(const Splat& splat, const Tile& tile)
      : x(splat.x - static_cast<float>(tile.left)), y(splat.y - static_cast<float>(tile.top)),
        xx(splat.xx), xy(splat.xy), yy(splat.yy), log2_opacity(splat.log2_opacity),
        lane_dx(Float::load(kLayout.lane_x) - x), lane_dy(Float::load(kLayout.lane_y) - y) {}

  Float exponent(Float dx, Float dy) const { return formulas::alpha_exponent(xx, xy, yy, log2_opacity, dx, dy); }
};

// The blocks in which alpha may be large enough: the exponent's maximum over a rectangle is inside, or on one of the two
// sides that face the centre.
BlockMask blocks_reached(const Spread& spread, const Splat& splat) {
  const Float zero = Float(0.0f);
  const Float width = Float(static_cast<float>(kBlockWidth - 1)), height = Float(static_cast<float>(kBlockHeight - 1));
  const Float slope_x = Float(splat.slope_x), slope_y = Float(splat.slope_y);
  BlockMask result = 0;
  for (int first = 0; first < kBlocks; first += kLanes) {
    const Float left = Float::load(kLayout.block_x + first) - spread.x;
    const Float top = Float::load(kLayout.block_y + first) - spread.y;
    const Float right = left + width, bottom = top + height;
    const Float near_x = simd::clamp(zero, left, right);
    const Float near_y = simd::clamp(zero, top, bottom);
    const Float on_vertical = spread.exponent(near_x, simd::clamp(slope_y * near_x, top, bottom));
    const Float on_horizontal = spread.exponent(simd::clamp(slope_x * near_y, left, right), near_y);
    const Mask reached = Float(kLeastExponent - kRoundingSlack) <= simd::maximum(on_vertical, on_horizontal);
    result |= static_cast<BlockMask>(static_cast<BlockMask>(simd::bits(reached)) << first);
  }
  return result;
}

// What a Gaussian does to the pixels of one block. Both passes use only this function to decide.
struct Step {
  Float dx, dy;                 // pixel - centre
  Float opacity_times_falloff;
  Float alpha;
  Float transmittance;          // after it
  Mask drawn;                   // lanes where it is large enough
  Mask blended;                 // of these, the lanes that take it
  Mask stopped;                 // and those that would become opaque: they take neither this nor any later one
};

inline Step step_into(const Spread& spread, int block, Float transmittance) {
  Step step;
  step.dx = spread.lane_dx + Float(kLayout.block_x[block]);
  step.dy = spread.lane_dy + Float(kLayout.block_y[block]);
  const Float exponent = spread.exponent(step.dx, step.dy);
  step.opacity_times_falloff = simd::power_of_two(exponent);
  step.alpha = simd::minimum(step.opacity_times_falloff, Float(formulas::kAlphaMax));
  step.drawn = (exponent <= spread.log2_opacity) & (Float(formulas::kAlphaMin) <= step.alpha);
  const Float next = simd::fnmadd_where(step.drawn, transmittance, step.alpha, transmittance);
  step.blended = step.drawn & (Float(formulas::kLeastTransmittance) <= next);
  step.stopped = and_not(step.drawn, step.blended);
  step.transmittance = negative_where(step.stopped, transmittance, next);
  return step;
}

// Inlined by force: GCC treats a function that only prefetches as one without effect, and drops its calls.
template <int kEntries>
__attribute__((always_inline)) inline void call_for(const Frame& frame, const Entry* entry, const Entry* end) {
  if (entry + kEntries < end) __builtin_prefetch(&frame.splats[entry[kEntries].gaussian]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward

// Sums over the Gaussians in front, for the pixels of a block.
struct Accumulated {
  Lanes transmittance;
  Lanes channel[4];  // red, green, blue, inverse depth
};

// Blends one Gaussian into the blocks `todo`; returns those in which it changed a pixel. Blocks that take no more
// Gaussians are removed from `open`.
template <int kChannels>
inline BlockMask blend_entry(const Splat& splat, const Tile& tile, BlockMask todo, BlockMask& open, Accumulated* blocks) {
  const Spread spread(splat, tile);
  const Float color[4] = {Float(splat.red), Float(splat.green), Float(splat.blue), Float(splat.inverse_depth)};
  BlockMask changed = 0;
  for (; todo != 0; todo &= static_cast<BlockMask>(todo - 1)) {
    const int block = lowest_block(todo);
    Accumulated& sums = blocks[block];
    const Float transmittance = sums.transmittance;
    const Step step = step_into(spread, block, transmittance);
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
template <int kChannels>
void blend_entries(Frame& frame, int64_t index, const Tile& tile, Accumulated* blocks) {
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
      reached[j - i] = blocks_reached(Spread(splat, tile), splat);
    }
    for (uint32_t first = i; i < batch_end && open != 0; ++i) {
      const BlockMask todo = reached[i - first] & open;
      const BlockMask changed = blend_entry<kChannels>(frame.splats[entries[i].gaussian], tile, todo, open, blocks);
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

// From blocks to rows of an image, or back: calls copy(offset in the image, block, first lane, number of pixels) for each
// run of neighbours.
template <class Copy>
void for_each_run(const Tile& tile, int32_t image_width, Copy&& copy) {
  for (int y = 0; y < tile.height; ++y) {
    const int64_t row = static_cast<int64_t>(tile.top + y) * image_width + tile.left;
    for (int x = 0; x < tile.width; x += kBlockWidth) {
      const int block = y / kBlockHeight * kBlocksPerRow + x / kBlockWidth;
      const int count = tile.width - x < kBlockWidth ? tile.width - x : kBlockWidth;
      copy(row + x, block, y % kBlockHeight * kBlockWidth, count);
    }
  }
}

void copy_run(float* to, const float* from, int count) {
  if (count == kBlockWidth) {
    std::memcpy(to, from, kBlockWidth * sizeof(float));  // of constant size it is one instruction
  } else {
    for (int i = 0; i < count; ++i) to[i] = from[i];
  }
}

// In this order NaN is kept.
Float limited(Float color) { return simd::minimum(Float(1.0f), simd::maximum(Float(0.0f), color)); }

template <int kChannels>
void blend_tile(Frame& frame, const Outputs& outputs, int64_t index) {
  const Tile tile = tile_at(frame, index);
  Accumulated blocks[kBlocks];
  blend_entries<kChannels>(frame, index, tile, blocks);
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

template <int kChannels>
inline void block_backward(const Spread& spread, const Float (&color)[4], int block, Replayed<kChannels>& replayed,
                           LaneSums<kChannels>& sums) {
  const Float transmittance = replayed.transmittance;
  const Step step = step_into(spread, block, transmittance);
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

template <int kChannels>
void blend_tile_backward(Frame& frame, const float* d_image, const float* d_inverse_depth, int64_t index) {
  const uint32_t used = frame.tile_used[index];
  if (used == 0) return;
  const Tile tile = tile_at(frame, index);
  Replayed<kChannels> blocks[kBlocks];
  prepare_replay(frame, tile, index, d_image, d_inverse_depth, blocks);
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
      block_backward(spread, color, block, blocks[block], sums);
    }
    sums.store(frame.gradients[entries[i].slot]);
    frame.written[entries[i].slot] = 1;
  }
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
