// SPDX-License-Identifier: Apache-2.0
// Mean SSIM, mean absolute difference and the gradient of their weighted sum, in one sweep down the image.
//
// SSIM (Wang et al. 2004) of x and y is written in their sum u = x + y and difference v = x - y. With E the 11x11
// Gaussian window, U = E[u], V = E[v], a = E[u^2] - U^2 and b = E[v^2] - V^2:
//
//     l = (U^2 - V^2 + 2 C1) / (U^2 + V^2 + 2 C1),   c = (a - b + 2 C2) / (a + b + 2 C2),   SSIM = l c.
//
// Four filtered maps are enough (x, y, x^2, y^2, xy would be five), and 1 - l and 1 - c come out without cancellation.
// With half slopes  p = c V^2 / B1^2,  q = -c (U^2 + 2 C1) / B1^2,  alpha = l b / B2^2,  beta = -l (a + 2 C2) / B2^2
// (B1, B2 the two denominators) the gradient of sum(SSIM) with respect to x is
//
//     4 ( E[U (p - alpha) + V (q - beta)] + u E[alpha] + v E[beta] ),
//
// three filtered maps, because the window is its own transpose. Pixels outside the image count as zero.
//
// A tile (one plane, a band of rows, a strip of columns) is swept from top to bottom, kRows rows at a time:
// input rows are filtered along the row into a ring; kLag rows behind, the ring is filtered down the columns, which gives
// the statistics, SSIM and slopes; these are filtered along the row into a second ring; and kLag rows further behind, that
// one gives the gradient. Tiles do not depend on the number of threads and their sums are added in order, so neither
// do the results.
//
// The loops over columns are written for the compiler's vectoriser.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "cpu_level.h"
#include "ssim_formulas.h"
#include "thread_pool.h"

#if defined(__clang__)
#define INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#endif

namespace {

using ssim::kRadius;
using ssim::kTaps;
using ssim::kWindow;

constexpr int kRows = 4;    // rows per step: more reuse loaded rows more often, but need more registers
constexpr int kLag = 7;     // at least kRadius, and kRadius + kLag a multiple of kRows: no step is wasted
constexpr int kRing = 16;   // rows that a filtered block and its neighbourhood span: kRadius + kLag + kRows
constexpr int kInputRing = 32;  // at least 2 kLag + kRows, a power of two
constexpr int kLanes = 16;
static_assert((kRadius + kLag) % kRows == 0 && kLag >= kRadius && kRing == kRadius + kLag + kRows);

constexpr int kMaxStrip = 512;  // columns of a tile: its rings stay in a second-level cache
constexpr int kMaxBand = 160;   // rows of a tile: many tiles for many threads, few rows done twice
constexpr int kPad = 8;         // columns added on each side of a filtered row: kRadius, rounded up
constexpr int kStride = kMaxStrip + 2 * kPad + kLanes;
constexpr int kInputStride = kStride + 2 * kPad;

struct Scratch {
  alignas(64) float sum[kInputRing][kInputStride];         // u
  alignas(64) float difference[kInputRing][kInputStride];  // v
  alignas(64) float filtered[4][kRing][kStride];           // u, v, u^2, v^2 filtered along the row
  alignas(64) float statistics[4][kRows][kStride];         // the same, filtered in both directions
  alignas(64) float ssim[kStride];
  alignas(64) float slopes[3][kStride];
  alignas(64) float filtered_slopes[3][kRing][kStride];  // filtered along the row
  alignas(64) float gradient[3][kRows][kStride];         // slopes filtered in both directions
};

struct Problem {
  const float* image;          // (planes, height, width)
  const float* target;         // same shape; null if the target is in bytes
  const uint8_t* target_bytes; // value * 255
  int64_t planes;
  int height, width;
  int margin;         // pixels at each border whose SSIM does not count
  float l1_scale;     // factors of the sums in the gradient
  float ssim_scale;
  float* gradient;    // (planes, height, width) or null
};

struct Tile {
  int64_t plane;
  int top, bottom, left, right;
};

struct Sums {
  double l1 = 0, ssim = 0;
};

// Sum of row[0 ... count), or of its absolute values, in double precision and in a fixed order.
template <bool kAbsolute>
double sum_row(const float* __restrict row, int count) {
  double lanes[kLanes] = {};
  const auto term = [&](int x) { return static_cast<double>(kAbsolute ? std::fabs(row[x]) : row[x]); };
  int x = 0;
  for (; x + kLanes <= count; x += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(x + lane);
  }
  for (int lane = 0; x + lane < count; ++lane) lanes[lane] += term(x + lane);
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

// out[x] = window over in[x - kRadius ... x + kRadius], for x in [0, width).
void filter_row(const float* __restrict in, int width, float* __restrict out) {
  INDEPENDENT_ITERATIONS
  for (int x = 0; x < width; ++x) {
    float total = kWindow[kRadius] * in[x];
    for (int k = 1; k <= kRadius; ++k) total += kWindow[kRadius + k] * (in[x - k] + in[x + k]);
    out[x] = total;
  }
}

// The same for u, v, u^2 and v^2, which are squared on the way: cheaper than loading them from rows of their own.
void filter_moments_row(const float* __restrict u, const float* __restrict v, int width, float* __restrict out_u,
                        float* __restrict out_v, float* __restrict out_uu, float* __restrict out_vv) {
  INDEPENDENT_ITERATIONS
  for (int x = 0; x < width; ++x) {
    float sum_u = kWindow[kRadius] * u[x], sum_uu = kWindow[kRadius] * (u[x] * u[x]);
    float sum_v = kWindow[kRadius] * v[x], sum_vv = kWindow[kRadius] * (v[x] * v[x]);
    for (int k = 1; k <= kRadius; ++k) {
      const float weight = kWindow[kRadius + k];
      sum_u += weight * (u[x - k] + u[x + k]);
      sum_v += weight * (v[x - k] + v[x + k]);
      sum_uu += weight * (u[x - k] * u[x - k] + u[x + k] * u[x + k]);
      sum_vv += weight * (v[x - k] * v[x - k] + v[x + k] * v[x + k]);
    }
    out_u[x] = sum_u;
    out_v[x] = sum_v;
    out_uu[x] = sum_uu;
    out_vv[x] = sum_vv;
  }
}

// Filters down the columns: kRows rows of `out` from the ring rows first, first + 1, ...
void filter_columns(const float (&ring)[kRing][kStride], int first, int width, float (&out)[kRows][kStride]) {
  const float* rows[kRows + kTaps - 1];
  for (int k = 0; k < kRows + kTaps - 1; ++k) rows[k] = ring[(first + k) % kRing];
  INDEPENDENT_ITERATIONS
  for (int x = 0; x < width; ++x) {
    for (int r = 0; r < kRows; ++r) {
      float total = kWindow[0] * rows[r][x];
      for (int k = 1; k < kTaps; ++k) total += kWindow[k] * rows[r + k][x];
      out[r][x] = total;
    }
  }
}

// SSIM of a row from its four statistics, and with kSlopes the three maps whose filtered forms make up the gradient.
template <bool kSlopes>
void ssim_row(const float* __restrict mean_u, const float* __restrict mean_v, const float* __restrict mean_uu,
              const float* __restrict mean_vv, int width, float* __restrict ssim_map, float* __restrict slope_mean,
              float* __restrict slope_uu, float* __restrict slope_vv) {
  INDEPENDENT_ITERATIONS
  for (int x = 0; x < width; ++x) {
    const ssim::Comparison pixel = ssim::compare(mean_u[x], mean_v[x], mean_uu[x], mean_vv[x]);
    ssim_map[x] = pixel.ssim;
    if (kSlopes) {
      slope_mean[x] = pixel.slope_mean;
      slope_uu[x] = pixel.slope_uu;
      slope_vv[x] = pixel.slope_vv;
    }
  }
}

template <bool kGradient>
class Sweep {
 public:
  Sweep(const Problem& problem, const Tile& tile, Scratch& scratch)
      : problem_(problem),
        tile_(tile),
        scratch_(scratch),
        plane_start_(tile.plane * problem.height * problem.width),
        width_((tile.right - tile.left + kLanes - 1) / kLanes * kLanes),
        filtered_width_(width_ + 2 * kSide),
        first_map_(tile.top - kHalo),
        first_input_(tile.top - kHalo - kRadius) {}

  Sums run() {
    for (int input = first_input_;; input += kRows) {
      for (int row = input; row < input + kRows; ++row) filter_input(row);
      const int map = input - kLag;
      if (map < first_map_) continue;
      compare(map);
      const int finished = kGradient ? map - kLag : map;
      if (finished < tile_.top) continue;
      if (kGradient) write_gradient(finished);
      if (finished + kRows >= tile_.bottom) return sums_;
    }
  }

 private:
  static constexpr int kHalo = kGradient ? kRadius : 0;  // SSIM's slopes are needed around the tile too
  static constexpr int kSide = kGradient ? kPad : 0;     // the same along the row, rounded up

  // Column 0 of a filtered row is image column left - kSide; that of an input row lies kPad further to the left.
  void filter_input(int row) {
    const int slot = (row - first_input_) % kRing;
    if (row < 0 || row >= std::min(problem_.height, tile_.bottom + kHalo + kRadius)) {
      for (auto& map : scratch_.filtered) std::fill_n(map[slot], filtered_width_, 0.0f);
      return;
    }
    float* u = scratch_.sum[(row - first_input_) % kInputRing];
    float* v = scratch_.difference[(row - first_input_) % kInputRing];
    load_row(row, u, v);
    if (row >= tile_.top && row < tile_.bottom) sums_.l1 += sum_row<true>(v + kPad + kSide, tile_.right - tile_.left);
    auto& filtered = scratch_.filtered;
    filter_moments_row(u + kPad, v + kPad, filtered_width_, filtered[0][slot], filtered[1][slot], filtered[2][slot],
                       filtered[3][slot]);
  }

  void load_row(int row, float* __restrict u, float* __restrict v) const {
    const int first = tile_.left - kSide - kPad;
    const int count = filtered_width_ + 2 * kPad;
    const int begin = std::max(0, -first), end = std::min(count, problem_.width - first);
    const int64_t start = plane_start_ + static_cast<int64_t>(row) * problem_.width + first;
    std::fill(u, u + begin, 0.0f);
    std::fill(v, v + begin, 0.0f);
    if (problem_.target != nullptr) {
      INDEPENDENT_ITERATIONS
      for (int i = begin; i < end; ++i) {
        const float x = problem_.image[start + i], y = problem_.target[start + i];
        u[i] = x + y;
        v[i] = x - y;
      }
    } else {
      INDEPENDENT_ITERATIONS
      for (int i = begin; i < end; ++i) {
        const float x = problem_.image[start + i], y = static_cast<float>(problem_.target_bytes[start + i]) / 255.0f;
        u[i] = x + y;
        v[i] = x - y;
      }
    }
    std::fill(u + end, u + count, 0.0f);
    std::fill(v + end, v + count, 0.0f);
  }

  // SSIM, and its slopes filtered along the row, of the rows first ... first + kRows - 1.
  void compare(int first) {
    auto& statistics = scratch_.statistics;
    for (int map = 0; map < 4; ++map) {
      filter_columns(scratch_.filtered[map], first - kRadius - first_input_, filtered_width_, statistics[map]);
    }
    for (int k = 0; k < kRows; ++k) {
      const int row = first + k;
      const int slot = (row - first_map_) % kRing;
      const int bottom = std::min(problem_.height - problem_.margin, tile_.bottom + kHalo);
      if (row < problem_.margin || row >= bottom) {
        if (kGradient) {
          for (auto& map : scratch_.filtered_slopes) std::fill_n(map[slot], width_, 0.0f);
        }
        continue;
      }
      ssim_row<kGradient>(statistics[0][k], statistics[1][k], statistics[2][k], statistics[3][k], filtered_width_,
                          scratch_.ssim, scratch_.slopes[0], scratch_.slopes[1], scratch_.slopes[2]);
      if (row >= tile_.top && row < tile_.bottom) add_ssim();
      if (kGradient) filter_slopes(slot);
    }
  }

  // Index in a filtered row of an image column.
  int column(int image_column) const { return image_column - tile_.left + kSide; }

  void add_ssim() {
    const int begin = column(std::max(tile_.left, problem_.margin));
    const int end = column(std::min(tile_.right, problem_.width - problem_.margin));
    sums_.ssim += sum_row<false>(scratch_.ssim + begin, end - begin);
  }

  void filter_slopes(int slot) {
    const int begin = std::clamp(column(problem_.margin), 0, filtered_width_);
    const int end = std::clamp(column(problem_.width - problem_.margin), begin, filtered_width_);
    for (int map = 0; map < 3; ++map) {
      float* row = scratch_.slopes[map];
      std::fill(row, row + begin, 0.0f);
      std::fill(row + end, row + filtered_width_, 0.0f);
      filter_row(row + kSide, width_, scratch_.filtered_slopes[map][slot]);
    }
  }

  void write_gradient(int first) {
    for (int map = 0; map < 3; ++map) {
      filter_columns(scratch_.filtered_slopes[map], first - kRadius - first_map_, width_, scratch_.gradient[map]);
    }
    const float ssim_scale = 4 * problem_.ssim_scale, l1_scale = problem_.l1_scale;
    for (int row = first; row < std::min(first + kRows, tile_.bottom); ++row) {
      const float* u = scratch_.sum[(row - first_input_) % kInputRing] + kPad + kSide;
      const float* v = scratch_.difference[(row - first_input_) % kInputRing] + kPad + kSide;
      const float* slope_uu = scratch_.gradient[1][row - first];
      const float* slope_vv = scratch_.gradient[2][row - first];
      float* result = scratch_.gradient[0][row - first];
      INDEPENDENT_ITERATIONS
      for (int x = 0; x < width_; ++x) {
        const float sign = (v[x] > 0 ? l1_scale : 0.0f) - (v[x] < 0 ? l1_scale : 0.0f);
        result[x] = ssim_scale * (result[x] + u[x] * slope_uu[x] + v[x] * slope_vv[x]) + sign;
      }
      const int64_t start = plane_start_ + static_cast<int64_t>(row) * problem_.width + tile_.left;
      std::memcpy(problem_.gradient + start, result, sizeof(float) * (tile_.right - tile_.left));
    }
  }

  const Problem& problem_;
  const Tile tile_;
  Scratch& scratch_;
  const int64_t plane_start_;
  const int width_;           // of the tile, in whole vectors
  const int filtered_width_;  // the same with kSide on both sides
  const int first_map_;       // first row whose SSIM is computed
  const int first_input_;     // first row that it depends on
  Sums sums_;
};

std::vector<Tile> make_tiles(int64_t planes, int height, int width) {
  const int strips = (width + kMaxStrip - 1) / kMaxStrip;
  const int strip = ((width + strips - 1) / strips + kLanes - 1) / kLanes * kLanes;
  const int bands = (height + kMaxBand - 1) / kMaxBand;
  const int band = (height + bands - 1) / bands;
  std::vector<Tile> tiles;
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (int top = 0; top < height; top += band) {
      for (int left = 0; left < width; left += strip) {
        tiles.push_back({plane, top, std::min(top + band, height), left, std::min(left + strip, width)});
      }
    }
  }
  return tiles;
}

// The scratch memory of the calling thread, kept until the thread ends; null if there is no memory.
Scratch* thread_scratch() {
  static thread_local std::unique_ptr<Scratch> scratch;
  if (scratch == nullptr) scratch.reset(new (std::nothrow) Scratch);
  return scratch.get();
}

Sums sweep_tiles(const Problem& problem, int threads) {
  const std::vector<Tile> tiles = make_tiles(problem.planes, problem.height, problem.width);
  std::vector<Sums> tile_sums(tiles.size());
  std::atomic<bool> out_of_memory{false};
  ThreadPool::run(threads, static_cast<int64_t>(tiles.size()), [&](int64_t index, int) {
    Scratch* scratch = thread_scratch();
    if (scratch == nullptr) {
      out_of_memory = true;
    } else if (problem.gradient != nullptr) {
      tile_sums[index] = Sweep<true>(problem, tiles[index], *scratch).run();
    } else {
      tile_sums[index] = Sweep<false>(problem, tiles[index], *scratch).run();
    }
  });
  if (out_of_memory) throw std::bad_alloc();
  Sums sums;
  for (const Sums& part : tile_sums) {
    sums.l1 += part.l1;
    sums.ssim += part.ssim;
  }
  return sums;
}

}  // namespace

// Writes the mean absolute difference and the mean SSIM to means[0] and means[1] and, unless `gradient` is null, the
// gradient of l1_weight * means[0] + ssim_weight * means[1] with respect to the image.
// Exactly one of target and target_bytes (value * 255) is given; `margin` pixels at each border do not count in the mean
// SSIM (0, or 5 for windows that lie inside the image). Returns 0, or 1 if there is not enough memory.
EXPORT int l1_ssim(const float* image, const float* target,
                                                              const uint8_t* target_bytes, int64_t planes, int32_t height,
                                                              int32_t width, int32_t margin, double l1_weight,
                                                              double ssim_weight, float* gradient, double* means,
                                                              int32_t threads) {
  const double values = static_cast<double>(planes) * height * width;
  const double windows = static_cast<double>(planes) * (height - 2 * margin) * (width - 2 * margin);
  const Problem problem{image,  target, target_bytes, planes, height, width, margin, static_cast<float>(l1_weight / values),
                        static_cast<float>(ssim_weight / windows), gradient};
  try {
    const Sums sums = sweep_tiles(problem, threads);
    means[0] = sums.l1 / values;
    means[1] = sums.ssim / windows;
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}
