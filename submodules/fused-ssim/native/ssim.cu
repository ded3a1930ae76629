// SPDX-License-Identifier: Apache-2.0
// Mean absolute difference, mean SSIM and their gradient, in three kernels; ssim.cpp derives the formulas.
//
// A block takes a tile of one plane. It filters sum u and difference v of the images, and their squares, along rows and then down columns,
// in shared memory, and writes the three maps of slopes. The second kernel filters these likewise, which gives the gradient.
// The third adds up what the blocks of the first have found, always in the same order.
#include "cuda_kernel.h"

#include "ssim_formulas.h"

using namespace cuda;
using ssim::kRadius;
using ssim::kTaps;

// Mirrored in cuda_ssim.py of the package. Images are (planes, height, width).
struct SsimArguments {
  const float* image;
  const float* target;          // null if the target is in bytes
  const uint8_t* target_bytes;  // value * 255
  float* slopes;                // (3, planes, height, width); null without a gradient
  float* gradient;              // null without
  double* sums;                 // (blocks of ssim_compare, 2): absolute differences, SSIM
  double* means;                // (2)
  int64_t planes;
  int64_t blocks;
  int32_t height, width;
  int32_t margin;               // pixels at each border whose SSIM does not count
  float l1_scale, ssim_scale;   // factors of the sums in the gradient
  double inverse_values, inverse_windows;
};

constexpr int kThreads = 256;
constexpr int kTileWidth = 32, kTileHeight = 16;
constexpr int kWide = kTileWidth + 2 * kRadius, kHigh = kTileHeight + 2 * kRadius;
constexpr int kRowsAtOnce = kThreads / kTileWidth;

struct Tile {
  int64_t start;  // of the plane
  int left, top;
};

DEVICE Tile tile_of_block(const SsimArguments& a) {
  const int columns = (a.width + kTileWidth - 1) / kTileWidth, rows = (a.height + kTileHeight - 1) / kTileHeight;
  const int64_t plane = blockIdx.x / (columns * rows);
  const int index = blockIdx.x % (columns * rows);
  return {plane * a.height * a.width, index % columns * kTileWidth, index / columns * kTileHeight};
}

// What lies at a place of a tile with its surroundings: whether that is in the image, and where.
struct Place {
  bool inside;
  int64_t pixel;
};

DEVICE Place place_at(const SsimArguments& a, const Tile& tile, int i) {
  const int y = tile.top - kRadius + i / kWide, x = tile.left - kRadius + i % kWide;
  return {y >= 0 && y < a.height && x >= 0 && x < a.width, tile.start + static_cast<int64_t>(y) * a.width + x};
}

DEVICE float target_at(const SsimArguments& a, int64_t pixel) {
  return a.target != nullptr ? a.target[pixel] : static_cast<float>(a.target_bytes[pixel]) / 255.0f;
}

// The window over kTaps numbers, `stride` apart.
DEVICE float filtered(const float* values, int stride) {
  float total = 0.0f;
#pragma unroll
  for (int k = 0; k < kTaps; ++k) total = fmaf(ssim::window(k), values[k * stride], total);
  return total;
}

DEVICE float filtered_squares(const float* values) {
  float total = 0.0f;
#pragma unroll
  for (int k = 0; k < kTaps; ++k) total = fmaf(ssim::window(k) * values[k], values[k], total);
  return total;
}

// Adds up one number of every thread of the block, in double precision; the sum in thread 0. `scratch`: one per warp.
DEVICE double block_sum(float value, double* scratch) {
  const double sum = warp_sum(static_cast<double>(value));
  if (lane() == 0) scratch[warp()] = sum;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0) {
    for (int w = 0; w < kThreads / kWarp; ++w) total += scratch[w];
  }
  return total;
}

KERNEL(ssim_compare, 256, SsimArguments) {
  __shared__ float u[kHigh * kWide], v[kHigh * kWide];
  __shared__ float rows[4][kHigh * kTileWidth];
  __shared__ double scratch[2][kThreads / kWarp];
  const SsimArguments& a = arguments;
  const Tile tile = tile_of_block(a);
  for (int i = threadIdx.x; i < kHigh * kWide; i += kThreads) {
    const Place place = place_at(a, tile, i);
    const float x = place.inside ? a.image[place.pixel] : 0.0f, y = place.inside ? target_at(a, place.pixel) : 0.0f;
    u[i] = x + y;
    v[i] = x - y;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kHigh * kTileWidth; i += kThreads) {
    const int start = i / kTileWidth * kWide + i % kTileWidth;
    rows[0][i] = filtered(u + start, 1);
    rows[1][i] = filtered(v + start, 1);
    rows[2][i] = filtered_squares(u + start);
    rows[3][i] = filtered_squares(v + start);
  }
  __syncthreads();
  float l1_sum = 0.0f, ssim_sum = 0.0f;
  const int column = threadIdx.x % kTileWidth, x = tile.left + column;
  const int64_t map = a.planes * a.height * a.width;
  for (int row = threadIdx.x / kTileWidth; row < kTileHeight; row += kRowsAtOnce) {
    const int y = tile.top + row;
    if (x >= a.width || y >= a.height) continue;
    l1_sum += fabsf(v[(row + kRadius) * kWide + column + kRadius]);
    const int start = row * kTileWidth + column;
    ssim::Comparison pixel =
        ssim::compare(filtered(rows[0] + start, kTileWidth), filtered(rows[1] + start, kTileWidth),
                      filtered(rows[2] + start, kTileWidth), filtered(rows[3] + start, kTileWidth));
    const bool counts = x >= a.margin && x < a.width - a.margin && y >= a.margin && y < a.height - a.margin;
    if (!counts) pixel = {0.0f, 0.0f, 0.0f, 0.0f};
    ssim_sum += pixel.ssim;
    if (a.slopes == nullptr) continue;
    float* slopes = a.slopes + tile.start + static_cast<int64_t>(y) * a.width + x;
    slopes[0] = pixel.slope_mean;
    slopes[map] = pixel.slope_uu;
    slopes[2 * map] = pixel.slope_vv;
  }
  const double l1_total = block_sum(l1_sum, scratch[0]), ssim_total = block_sum(ssim_sum, scratch[1]);
  if (threadIdx.x == 0) {
    a.sums[2 * blockIdx.x] = l1_total;
    a.sums[2 * blockIdx.x + 1] = ssim_total;
  }
}

KERNEL(ssim_gradient, 256, SsimArguments) {
  __shared__ float slopes[3][kHigh * kWide];
  __shared__ float rows[3][kHigh * kTileWidth];
  const SsimArguments& a = arguments;
  const Tile tile = tile_of_block(a);
  const int64_t map = a.planes * a.height * a.width;
  for (int i = threadIdx.x; i < kHigh * kWide; i += kThreads) {
    const Place place = place_at(a, tile, i);
    for (int m = 0; m < 3; ++m) slopes[m][i] = place.inside ? a.slopes[m * map + place.pixel] : 0.0f;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kHigh * kTileWidth; i += kThreads) {
    const int start = i / kTileWidth * kWide + i % kTileWidth;
    for (int m = 0; m < 3; ++m) rows[m][i] = filtered(slopes[m] + start, 1);
  }
  __syncthreads();
  const int column = threadIdx.x % kTileWidth, x = tile.left + column;
  for (int row = threadIdx.x / kTileWidth; row < kTileHeight; row += kRowsAtOnce) {
    const int y = tile.top + row;
    if (x >= a.width || y >= a.height) continue;
    const int64_t pixel = tile.start + static_cast<int64_t>(y) * a.width + x;
    const float image = a.image[pixel], target = target_at(a, pixel);
    const float u = image + target, v = image - target;
    const int start = row * kTileWidth + column;
    const float mean = filtered(rows[0] + start, kTileWidth);
    const float uu = filtered(rows[1] + start, kTileWidth), vv = filtered(rows[2] + start, kTileWidth);
    const float sign = (v > 0.0f ? a.l1_scale : 0.0f) - (v < 0.0f ? a.l1_scale : 0.0f);
    a.gradient[pixel] = 4.0f * a.ssim_scale * (mean + u * uu + v * vv) + sign;
  }
}

// One block.
KERNEL(ssim_means, 256, SsimArguments) {
  __shared__ double totals[2][kThreads];
  const SsimArguments& a = arguments;
  double l1 = 0.0, similarity = 0.0;
  for (int64_t i = threadIdx.x; i < a.blocks; i += kThreads) {
    l1 += a.sums[2 * i];
    similarity += a.sums[2 * i + 1];
  }
  totals[0][threadIdx.x] = l1;
  totals[1][threadIdx.x] = similarity;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      for (int which = 0; which < 2; ++which) totals[which][threadIdx.x] += totals[which][threadIdx.x + half];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    a.means[0] = totals[0][0] * a.inverse_values;
    a.means[1] = totals[1][0] * a.inverse_windows;
  }
}
