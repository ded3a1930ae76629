// SPDX-License-Identifier: Apache-2.0
// One step of Adam on the grids of a version-2 file, as grid_step.cpp. `seen` has the values of the decoder bit by bit: products and
// sums that the format rounds one by one are written with __fmul_rn and __fadd_rn, which are never fused.
#include "cuda_kernel.h"

#include "cuda_adam.h"
#include "grid_step.h"

using namespace cuda;
using rasterizer::EvenGrid;
using rasterizer::GridConstants;
using rasterizer::LinearRule;

constexpr float kGreatestSymbol = 32767.0f;  // of SH and colour
constexpr float kShortestQuaternion = 1e-12f;
constexpr int kMostChannels = 45;

// One attribute: an array of `rows` x its width, with its moments.
struct Attribute {
  float* parameter;
  const float* gradient;
  float* mean;
  float* variance;
  float* seen;
  AdamFactors factors;
};

// Mirrored in cuda_grid_step.py of the package.
struct GridArguments {
  GridConstants grids;     // without sh_matrix
  const float* sh_matrix;  // (channels, channels)
  Attribute xyz, dc, rest, opacity, scaling, rotation;
  const uint8_t* classes;  // one a row
  const uint8_t* far;      // whether the row's centre is outside the cells, and not rounded
  int64_t count;
  int32_t channels;        // of `rest`
};

DEVICE float moved(const Attribute& a, int64_t i) {
  float mean = a.mean[i], variance = a.variance[i];
  const float result = adam_moved(a.factors, a.parameter[i], a.gradient[i], mean, variance);
  a.mean[i] = mean;
  a.variance[i] = variance;
  a.parameter[i] = result;
  return result;
}

// As on CPUs: the second where either is not a number.
DEVICE float lesser(float a, float b) { return a < b ? a : b; }
DEVICE float larger(float a, float b) { return a > b ? a : b; }
DEVICE float clamped(float a, float low, float high) { return lesser(larger(a, low), high); }

DEVICE float symbol_on(const EvenGrid& grid, float value) {
  return clamped(rintf((value - grid.minimum) / grid.step), 0.0f, grid.top);
}

DEVICE float value_on(const EvenGrid& grid, float symbol) {
  return __fadd_rn(__fmul_rn(symbol, grid.step), grid.minimum);
}

// 2 ^ (the rule's result).
DEVICE float size_of(const LinearRule& rule, int level, const float* scale) {
  int64_t total = rule.bias + rule.factors[0] * level;
  for (int axis = 0; axis < 3; ++axis) total += rule.factors[axis + 1] * static_cast<int32_t>(scale[axis]);
  return static_cast<float>(1 << least(greatest(total >> 16, int64_t{0}), rule.most));
}

// Axes that would change places become equal instead: symbols are in descending order.
DEVICE void see_scales(const GridArguments& a, int64_t row, float* symbols) {
  float smallest = a.grids.scale.top;
  for (int axis = 0; axis < 3; ++axis) {
    smallest = lesser(symbol_on(a.grids.scale, moved(a.scaling, 3 * row + axis)), smallest);
    symbols[axis] = smallest;
    a.scaling.seen[3 * row + axis] = value_on(a.grids.scale, smallest);
  }
}

DEVICE void see_centres(const GridArguments& a, int64_t row, const float* scale) {
  const GridConstants& g = a.grids;
  const float size = size_of(g.position_shift, a.classes[row], scale);
  const float half = floorf(size * 0.5f);
  for (int axis = 0; axis < 3; ++axis) {
    const float centre = moved(a.xyz, 3 * row + axis);
    const float cell = floorf(clamped((centre - g.origin[axis]) / g.cell, 0.0f, g.top_cell));
    const float middle = floorf(cell / size) * size + half;  // whole numbers: exact
    const float value = __fadd_rn(__fmul_rn(middle, g.cell), g.origin[axis]);
    a.xyz.seen[3 * row + axis] = a.far[row] ? centre : value;
  }
}

DEVICE void see_rotations(const GridArguments& a, int64_t row, const float* scale) {
  const float turns = size_of(a.grids.rotation_shift, a.classes[row], scale) * a.grids.rotation_step;
  float q[4], sum = 0.0f;
  for (int axis = 0; axis < 4; ++axis) {
    q[axis] = moved(a.rotation, 4 * row + axis);
    sum = axis == 0 ? __fmul_rn(q[0], q[0]) : __fadd_rn(sum, __fmul_rn(q[axis], q[axis]));
  }
  const float length = larger(__fsqrt_rn(sum), kShortestQuaternion);
  const bool negative = __fdiv_rn(q[0], length) < 0.0f;
  float squares = 0.0f;
  for (int axis = 1; axis < 4; ++axis) {
    const float unit = __fdiv_rn(q[axis], length);
    const float symbol = rintf(__fdiv_rn(negative ? -unit : unit, turns)) + 0.0f;  // integers have no -0
    const float value = __fmul_rn(symbol, turns);
    a.rotation.seen[4 * row + axis] = value;
    const float square = __fmul_rn(value, value);
    squares = axis == 1 ? square : __fadd_rn(squares, square);
  }
  a.rotation.seen[4 * row] = __fsqrt_rn(larger(__fsub_rn(1.0f, squares), 0.0f));
}

DEVICE void see_colours(const GridArguments& a, int64_t row) {
  const GridConstants& g = a.grids;
  float dc[3], steps[3];
  for (int c = 0; c < 3; ++c) dc[c] = moved(a.dc, 3 * row + c);
  const float size = g.dc_size[a.classes[row]];
  for (int c = 0; c < 3; ++c) {
    const float* m = g.dc_forward + c;
    const float sum = __fadd_rn(__fadd_rn(__fmul_rn(dc[0], m[0]), __fmul_rn(dc[1], m[3])), __fmul_rn(dc[2], m[6]));
    const float symbol = rintf(__fdiv_rn(__fsub_rn(__fdiv_rn(sum, g.dc_unit), g.dc_low[c]), size));
    steps[c] = clamped(symbol, 0.0f, kGreatestSymbol) * size + g.dc_low[c];  // whole numbers: exact
  }
  for (int c = 0; c < 3; ++c) {
    double sum = 0.0;  // whole numbers again, and exact in double
    for (int k = 0; k < 3; ++k) sum += static_cast<double>(steps[k]) * static_cast<double>(g.dc_inverse[3 * k + c]);
    a.dc.seen[3 * row + c] = __fmul_rn(static_cast<float>(sum), g.dc_step);
  }
}

// Everything but the higher SH. One thread a Gaussian.
KERNEL(grid_small, 128, GridArguments) {
  const GridArguments& a = arguments;
  const int64_t row = global_thread();
  if (row >= a.count) return;
  a.opacity.seen[row] = value_on(a.grids.opacity, symbol_on(a.grids.opacity, moved(a.opacity, row)));
  float scale[3];
  see_scales(a, row, scale);
  see_centres(a, row, scale);
  see_rotations(a, row, scale);
  see_colours(a, row);
}

constexpr int kGroup = 32;  // Gaussians of a block: mirrored in cuda_grid_step.py

// Adam, symbols, and values through the matrix. One block a group of Gaussians.
KERNEL(grid_harmonics, 256, GridArguments) {
  __shared__ float matrix[kMostChannels * kMostChannels];
  __shared__ float symbols[kGroup * kMostChannels];
  const GridArguments& a = arguments;
  const GridConstants& g = a.grids;
  const int channels = a.channels;
  for (int i = threadIdx.x; i < channels * channels; i += blockDim.x) matrix[i] = a.sh_matrix[i];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kGroup;
  const int numbers = static_cast<int>(least(int64_t{kGroup}, a.count - first)) * channels;
  for (int i = threadIdx.x; i < numbers; i += blockDim.x) {
    const float parameter = moved(a.rest, first * channels + i);
    const float scaled = __fmul_rn(parameter, g.sh_steps_per_unit[a.classes[first + i / channels]]);
    const float magnitude = lesser(floorf(__fadd_rn(fabsf(scaled), g.sh_rounding)), kGreatestSymbol);
    symbols[i] = scaled < 0.0f ? -magnitude : magnitude;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < numbers; i += blockDim.x) {
    const float* row = symbols + i / channels * channels;
    const int column = i % channels;
    // Whole numbers, of which the sum is exact in double precision, in any order.
    double sum = 0.0;
    for (int k = 0; k < channels; ++k) sum += static_cast<double>(row[k]) * static_cast<double>(matrix[k * channels + column]);
    a.rest.seen[first * channels + i] = __fmul_rn(static_cast<float>(sum), g.sh_step[a.classes[first + i / channels]]);
  }
}

struct PullBackArguments {
  float* gradients;       // (rows, channels), in place
  const float* sh_matrix;
  int64_t rows;
  int32_t channels;
  float sh_unit;
};

// Gradients for values to gradients for coordinates: gradients x transposed matrix / unit. One block a group of Gaussians.
KERNEL(grid_pull_back, 256, PullBackArguments) {
  __shared__ float matrix[kMostChannels * kMostChannels];
  __shared__ float gradients[kGroup * kMostChannels];
  const PullBackArguments& a = arguments;
  const int channels = a.channels;
  for (int i = threadIdx.x; i < channels * channels; i += blockDim.x) matrix[i] = a.sh_matrix[i] / a.sh_unit;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kGroup;
  const int numbers = static_cast<int>(least(int64_t{kGroup}, a.rows - first)) * channels;
  float* group = a.gradients + first * channels;
  for (int i = threadIdx.x; i < numbers; i += blockDim.x) gradients[i] = group[i];
  __syncthreads();
  for (int i = threadIdx.x; i < numbers; i += blockDim.x) {
    const float* row = gradients + i / channels * channels;
    const float* column = matrix + i % channels * channels;
    float sum = 0.0f;
    for (int k = 0; k < channels; ++k) sum = fmaf(row[k], column[k], sum);
    group[i] = sum;
  }
}
