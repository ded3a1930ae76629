// SPDX-License-Identifier: Apache-2.0
#include "adam.h"

#include <algorithm>
#include <cmath>

#include "thread_pool.h"

namespace rasterizer {
namespace {

constexpr int64_t kChunkFloats = 1 << 14;

void update(const AdamGroup& g, const AdamConstants& k, int64_t begin, int64_t end) {
  float* __restrict__ parameter = g.parameter;
  const float* __restrict__ gradient = g.gradient;
  float* __restrict__ mean = g.mean;
  float* __restrict__ variance = g.variance;
  const float fresh_mean = static_cast<float>(1.0 - k.beta_mean);
  const float fresh_variance = static_cast<float>(1.0 - k.beta_variance);
  const float beta_variance = static_cast<float>(k.beta_variance);
  const float epsilon = static_cast<float>(k.epsilon);
  for (int64_t i = begin; i < end; ++i) {
    const float d = gradient[i];
    const float m = mean[i] + fresh_mean * (d - mean[i]);
    const float v = beta_variance * variance[i] + fresh_variance * d * d;
    mean[i] = m;
    variance[i] = v;
    parameter[i] -= g.step_size * m / (std::sqrt(v) * g.variance_correction + epsilon);
  }
}

}  // namespace

void adam_step(const AdamGroup& group, const AdamConstants& constants, const uint8_t* chosen, int threads) {
  if (group.rows == 0 || group.width == 0) return;
  const int64_t chunk_rows = std::max<int64_t>(1, kChunkFloats / group.width);
  const int64_t chunks = (group.rows + chunk_rows - 1) / chunk_rows;
  ThreadPool::run(threads, chunks, [&](int64_t chunk, int) {
    const int64_t begin = chunk * chunk_rows;
    const int64_t end = std::min(group.rows, begin + chunk_rows);
    if (chosen == nullptr) {
      update(group, constants, begin * group.width, end * group.width);
      return;
    }
    for (int64_t row = begin; row < end; ++row) {
      if (chosen[row]) update(group, constants, row * group.width, (row + 1) * group.width);
    }
  });
}

}  // namespace rasterizer
