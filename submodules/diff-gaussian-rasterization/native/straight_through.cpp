// SPDX-License-Identifier: Apache-2.0
#include "straight_through.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "thread_pool.h"

namespace rasterizer {
namespace {

constexpr int64_t kChunkFloats = 1 << 14;
constexpr float kLargestHalf = 65504.0f;

// The gradient of sparsity * sum |seen|.
inline float sparsity_gradient(float seen, float sparsity) {
  const float positive = seen > 0.0f ? sparsity : 0.0f, negative = seen < 0.0f ? sparsity : 0.0f;
  return positive - negative;
}

template <bool kSparse>
void adam(const StraightThroughGroup& group, const AdamConstants& k, int64_t begin, int64_t end) {
  float* __restrict__ parameter = group.adam.parameter;
  const float* __restrict__ gradient = group.adam.gradient;
  float* __restrict__ mean = group.adam.mean;
  float* __restrict__ variance = group.adam.variance;
  const float* __restrict__ seen = group.seen;
  const float fresh_mean = 1.0f - k.beta_mean, fresh_variance = 1.0f - k.beta_variance;
  const float step_size = group.adam.step_size, correction = group.adam.variance_correction;
  const float sparsity = group.sparsity, epsilon = k.epsilon, beta_variance = k.beta_variance;
  for (int64_t i = begin; i < end; ++i) {
    const float d = kSparse ? gradient[i] + sparsity_gradient(seen[i], sparsity) : gradient[i];
    const float m = mean[i] + fresh_mean * (d - mean[i]);
    const float v = beta_variance * variance[i] + fresh_variance * d * d;
    mean[i] = m;
    variance[i] = v;
    parameter[i] -= step_size * m / (std::sqrt(v) * correction + epsilon);
  }
}

ParameterRange range_of(const float* values, int64_t length) {
  // One pair of bounds per lane: a plain minimum would be one long chain, as compilers may not reorder it.
  constexpr int kLanes = 16;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float low[kLanes], high[kLanes];
  std::fill_n(low, kLanes, kInfinity);
  std::fill_n(high, kLanes, -kInfinity);
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float x = values[i + lane];
      low[lane] = x < low[lane] ? x : low[lane];
      high[lane] = x > high[lane] ? x : high[lane];
    }
  }
  for (; i < length; ++i) {
    low[0] = std::min(low[0], values[i]);
    high[0] = std::max(high[0], values[i]);
  }
  return {*std::min_element(low, low + kLanes), *std::max_element(high, high + kLanes)};
}

// The file format defines decoded values by a product and a sum, each rounded. They stand in two loops, so that no compiler
// makes one fused multiply-add of them.
void quantize_to_grid(const float* __restrict__ values, float* __restrict__ seen, int64_t length, float minimum,
                      float step, float top) {
  for (int64_t i = 0; i < length; ++i) {
    const float symbol = std::nearbyint((values[i] - minimum) / step);
    const float not_below = symbol > 0.0f ? symbol : 0.0f;
    seen[i] = (not_below < top ? not_below : top) * step;
  }
  for (int64_t i = 0; i < length; ++i) seen[i] += minimum;
}

void quantize_to_half(const float* __restrict__ values, float* __restrict__ seen, int64_t length) {
  for (int64_t i = 0; i < length; ++i) {
    const float not_below = values[i] > -kLargestHalf ? values[i] : -kLargestHalf;
    seen[i] = static_cast<float>(static_cast<_Float16>(not_below < kLargestHalf ? not_below : kLargestHalf));
  }
}

ParameterRange step_chunk(const StraightThroughGroup& group, const AdamConstants& constants, int64_t begin, int64_t end) {
  if (group.sparsity != 0.0f) {
    adam<true>(group, constants, begin, end);
  } else {
    adam<false>(group, constants, begin, end);
  }
  const float* values = group.adam.parameter + begin;
  if (group.kind == kGrid) {
    quantize_to_grid(values, group.seen + begin, end - begin, group.minimum, group.step, group.top);
  }
  if (group.kind == kHalf) quantize_to_half(values, group.seen + begin, end - begin);
  return range_of(values, end - begin);
}

}  // namespace

void straight_through_step(const StraightThroughGroup& group, const AdamConstants& constants, ParameterRange* range,
                           int threads) {
  const int64_t floats = group.adam.rows * group.adam.width;
  *range = {0.0f, 0.0f};
  if (floats == 0) return;
  const int64_t chunks = (floats + kChunkFloats - 1) / kChunkFloats;
  const std::unique_ptr<ParameterRange[]> ranges(new ParameterRange[chunks]);
  // A chunk and its moments stay in the second-level cache between the loops of a step.
  ThreadPool::run(threads, chunks, [&](int64_t chunk, int) {
    const int64_t begin = chunk * kChunkFloats;
    ranges[chunk] = step_chunk(group, constants, begin, std::min(floats, begin + kChunkFloats));
  });
  *range = ranges[0];
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    range->low = std::min(range->low, ranges[chunk].low);
    range->high = std::max(range->high, ranges[chunk].high);
  }
}

}  // namespace rasterizer
