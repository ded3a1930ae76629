// SPDX-License-Identifier: Apache-2.0
// What one rendered view keeps for its backward pass, in buffers that are reused from view to view.
#pragma once

#if defined(_WIN32)
#include <malloc.h>
#else
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "formulas.h"
#include "scene.h"
#include "simd.h"

namespace rasterizer {

using formulas::Camera;
using formulas::kTileSize;

// Grows, never shrinks, and does not keep its contents when it grows. New pages are expensive, so buffers are kept.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(data_); }

  T* reserve(size_t count) {
    if (count > capacity_) {
      release(data_);
      data_ = nullptr;
      capacity_ = 0;
      const size_t wanted = count + count / 8;
      if (wanted > (SIZE_MAX / 2) / sizeof(T)) throw std::bad_alloc();
      const size_t alignment = wanted * sizeof(T) < 2 * kHugePage ? kCacheLine : kHugePage;
      const size_t bytes = (wanted * sizeof(T) + alignment - 1) / alignment * alignment;
      data_ = static_cast<T*>(allocate(alignment, bytes));
      if (data_ == nullptr) throw std::bad_alloc();
      capacity_ = wanted;
#if defined(MADV_HUGEPAGE)
      // Tiles access Gaussians all over the memory; with small pages most accesses would miss the address cache, too.
      if (alignment == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    }
    return data_;
  }
  T* data() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
#if defined(_WIN32)
  static void* allocate(size_t alignment, size_t bytes) { return _aligned_malloc(bytes, alignment); }
  static void release(void* data) { _aligned_free(data); }
#else
  static void* allocate(size_t alignment, size_t bytes) { return std::aligned_alloc(alignment, bytes); }
  static void release(void* data) { std::free(data); }
#endif

  static constexpr size_t kCacheLine = 64;
  static constexpr size_t kHugePage = size_t{1} << 21;
  T* data_ = nullptr;
  size_t capacity_ = 0;
};

// All that blending needs of a Gaussian, in one cache line.
struct alignas(64) Splat {
  float x, y;                   // centre, pixels
  float xx, xy, yy;             // exponent of alpha, base 2: xx dx^2 + xy dx dy + yy dy^2 + log2_opacity
  float log2_opacity;
  float slope_x, slope_y;       // the exponent is largest at dx = slope_x dy for a given dy, and the other way round
  float red, green, blue;
  float inverse_depth;
  float unused[4];
};
static_assert(sizeof(Splat) == 64, "one cache line");

// The tiles that a Gaussian reaches: bit (row - y0) * (x1 - x0) + column - x0 of `mask`, if the rectangle has no more tiles
// than that; otherwise the mask is 0 and the ellipse is cut again (see Frame::reaches).
struct Cover {
  uint16_t x0, y0, x1, y1;
  uint64_t mask;
};
constexpr int kMaskTiles = 64;

// One Gaussian in one tile.
struct Entry {
  uint32_t gaussian;
  uint32_t slot;  // of its gradient record: the slots of a Gaussian are consecutive, its tiles in row-major order
};

// Sums over the pixels of one tile, for one Gaussian. s = alpha dL/dalpha, and d = pixel - centre.
struct alignas(64) TileGradient {
  float s, sx, sy, sxx, sxy, syy;
  float red, green, blue;
  float inverse_depth;
  float unused[6];
};
static_assert(sizeof(TileGradient) == 64, "one cache line");

// A tile is cut into blocks of 4 columns with as many pixels as there are lanes; block b is at column b % 4, row b / 4.
constexpr int kTilePixels = kTileSize * kTileSize;
constexpr int kBlocks = kTilePixels / simd::kLanes;
constexpr int kBlockWidth = 4;
constexpr int kBlockHeight = simd::kLanes / kBlockWidth;
constexpr int kBlocksPerRow = kTileSize / kBlockWidth;

template <int kBits>
struct UnsignedOf;
template <>
struct UnsignedOf<16> {
  using Type = uint16_t;
};
template <>
struct UnsignedOf<32> {
  using Type = uint32_t;
};
template <>
struct UnsignedOf<64> {
  using Type = uint64_t;
};
using BlockMask = UnsignedOf<kBlocks>::Type;

constexpr uint64_t kMostEntries = uint64_t{1} << 31;

// Thrown where a view would have more entries than that.
struct TooManyEntries {
  uint64_t entries;
};

enum Stage { kProject, kSort, kBlend, kBlendBackward, kProjectBackward, kStages };

constexpr int kChunk = 512;  // Gaussians that are one task of a geometry pass

struct Frame {
  Camera camera;
  int64_t count = 0;                 // Gaussians
  int32_t columns = 0, rows = 0;     // of tiles
  uint32_t drawn = 0;                // Gaussians that reach a tile
  int32_t clamped = 0;               // bool: the image given out was clamped to [0, 1]
  int32_t kept = 0;                  // bool: the data of the backward pass are here
  const float* offsets = nullptr;    // (H, W, 2), the caller's: where pixels are sampled, from their centres; null: there

  double wall_seconds[kStages] = {};  // of each stage of the last view
  double cpu_seconds[kStages] = {};   // likewise, of all threads

  Buffer<Splat> splats;              // per Gaussian, where drawn
  Buffer<Cover> covers;              // likewise
  Buffer<formulas::Reach<float>> reaches;  // likewise, where the mask does not suffice
  Buffer<uint32_t> first_slot;       // N + 1: running number of tile entries, by Gaussian
  Buffer<uint64_t> keys, keys_swap;  // drawn Gaussians: bits of the depth, then the index
  Buffer<uint32_t> chunk_drawn;      // per chunk
  Buffer<uint64_t> chunk_entries;
  Buffer<uint32_t> histograms;       // scratch of both sorts
  Buffer<uint32_t> tile_begin;       // tiles + 1: first entry of each
  Buffer<uint32_t> tile_used;        // entries of the tile that were evaluated before all its pixels were opaque
  Buffer<Entry> entries;             // by tile, each front to back
  Buffer<BlockMask> masks;           // per entry: blocks in which it changed a pixel
  Buffer<float> pixels;              // per tile and block: final colour (and inverse depth), before clamping
  Buffer<TileGradient> gradients;    // per slot
  Buffer<uint8_t> written;           // per slot: whether the record above was written

  int64_t tiles() const { return static_cast<int64_t>(columns) * rows; }
  int64_t chunks() const { return (count + kChunk - 1) / kChunk; }
};

// Outputs of the forward pass; the image and the inverse depth are planar.
struct Outputs {
  float* image;          // (3, H, W)
  float* inverse_depth;  // (1, H, W), or null
  int32_t* radii;        // (N), pixels
};

// The four stages of a view, in this order.
void project_gaussians(Frame& frame, const Scene& scene, int32_t* radii, int threads);
void sort_into_tiles(Frame& frame, int threads);
void blend(Frame& frame, const Outputs& outputs, int threads);

// How much each Gaussian contributes to the image, (N) each: pixels that it changes, and the sum and the largest of its
// blending weights, alpha times transmittance. Weights are multiplied by those of the pixels, (H, W), unless these are null.
struct Importance {
  int32_t* counts;
  float* weights;
  float* largest;
  const float* pixel_weights;
};

// Of a view whose data are kept. It overwrites the records of the backward pass, which may still follow.
void measure_importance(Frame& frame, const Importance& importance, int threads);

// And of its derivative. d_inverse_depth may be null.
void blend_backward(Frame& frame, const float* d_image, const float* d_inverse_depth, int threads);
void project_backward(Frame& frame, const Scene& scene, const SceneGradients& gradients, int threads);

}  // namespace rasterizer
