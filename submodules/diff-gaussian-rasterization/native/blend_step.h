// SPDX-License-Identifier: Apache-2.0
// What a Gaussian does to the pixels of a tile, on a CPU. All passes over a tile use only these functions to decide, so that all
// decide alike.
#pragma once

#include <cstring>

#include "frame.h"

namespace rasterizer {

using simd::Float;
using simd::kLanes;
using simd::Mask;

constexpr float kLeastExponent = -7.99435344f;  // log2(kAlphaMin)
constexpr float kRoundingSlack = 2.0e-3f;       // so that rounding in the test of a block never omits a pixel

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

inline int lowest_block(BlockMask mask) { return __builtin_ctzll(mask); }

struct Tile {
  int32_t left, top;  // first pixel
  int32_t width, height;  // of the part inside the image
};

inline Tile tile_at(const Frame& frame, int64_t index) {
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
inline Float first_transmittance(const Tile& tile, int block) {
  const Float x = Float::load(kLayout.lane_x) + Float(kLayout.block_x[block]);
  const Float y = Float::load(kLayout.lane_y) + Float(kLayout.block_y[block]);
  const Mask inside = (x < Float(static_cast<float>(tile.width))) & (y < Float(static_cast<float>(tile.height)));
  return select(inside, Float(1.0f), Float(-1.0f));
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

inline void copy_run(float* to, const float* from, int count) {
  if (count == kBlockWidth) {
    std::memcpy(to, from, kBlockWidth * sizeof(float));  // of constant size it is one instruction
  } else {
    for (int i = 0; i < count; ++i) to[i] = from[i];
  }
}

// Where the pixels of a tile are sampled. At whole numbers:
struct PixelCentres {
  PixelCentres(const Frame&, const Tile&) {}
  Float moved_x(Float dx, int) const { return dx; }
  Float moved_y(Float dy, int) const { return dy; }
  static constexpr float margin() { return 0.0f; }
};

// Each moved by its own offset:
class MovedCentres {
 public:
  MovedCentres(const Frame& frame, const Tile& tile) : margin_(frame.camera.margin) {
    std::memset(x_, 0, sizeof x_);
    std::memset(y_, 0, sizeof y_);
    for_each_run(tile, frame.camera.width, [&](int64_t pixel, int block, int lane, int count) {
      for (int i = 0; i < count; ++i) {
        x_[block].value[lane + i] = frame.offsets[2 * (pixel + i)];
        y_[block].value[lane + i] = frame.offsets[2 * (pixel + i) + 1];
      }
    });
  }
  Float moved_x(Float dx, int block) const { return dx + x_[block]; }
  Float moved_y(Float dy, int block) const { return dy + y_[block]; }
  float margin() const { return margin_; }

 private:
  Lanes x_[kBlocks], y_[kBlocks];
  float margin_;
};

// Calls visit with the type of samples that the frame needs.
template <class Visit>
void with_samples(const Frame& frame, const Tile& tile, Visit&& visit) {
  if (frame.offsets == nullptr) {
    visit(PixelCentres(frame, tile));
  } else {
    visit(MovedCentres(frame, tile));
  }
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
// sides that face the centre. The rectangles are larger by `margin` on each side.
inline BlockMask blocks_reached(const Spread& spread, const Splat& splat, float margin) {
  const Float zero = Float(0.0f);
  const float more = 2.0f * margin;
  const Float width = Float(static_cast<float>(kBlockWidth - 1) + more);
  const Float height = Float(static_cast<float>(kBlockHeight - 1) + more);
  const Float slope_x = Float(splat.slope_x), slope_y = Float(splat.slope_y);
  BlockMask result = 0;
  for (int first = 0; first < kBlocks; first += kLanes) {
    const Float left = Float::load(kLayout.block_x + first) - spread.x - Float(margin);
    const Float top = Float::load(kLayout.block_y + first) - spread.y - Float(margin);
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
  Float dx, dy;                 // sample - centre
  Float opacity_times_falloff;
  Float alpha;
  Float transmittance;          // after it
  Mask drawn;                   // lanes where it is large enough
  Mask blended;                 // of these, the lanes that take it
  Mask stopped;                 // and those that would become opaque: they take neither this nor any later one
};

template <class Samples>
inline Step step_into(const Spread& spread, const Samples& samples, int block, Float transmittance) {
  Step step;
  step.dx = samples.moved_x(spread.lane_dx + Float(kLayout.block_x[block]), block);
  step.dy = samples.moved_y(spread.lane_dy + Float(kLayout.block_y[block]), block);
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

}  // namespace rasterizer
