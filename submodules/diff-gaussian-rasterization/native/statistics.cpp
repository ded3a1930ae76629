// SPDX-License-Identifier: Apache-2.0
#include "statistics.h"

#include <algorithm>
#include <cmath>

#include "thread_pool.h"

namespace rasterizer {
namespace {

constexpr int64_t kChunk = 1 << 14;

template <class Work>
void in_chunks(int64_t count, int threads, Work&& work) {
  ThreadPool::run(threads, (count + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
    work(chunk * kChunk, std::min(count, (chunk + 1) * kChunk));
  });
}

}  // namespace

void add_view(const ViewStatistics& s, int threads) {
  in_chunks(s.count, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* gradient = s.screen + i * s.screen_width;
      const float norm = std::sqrt(gradient[0] * gradient[0] + gradient[1] * gradient[1]);
      const float radius = static_cast<float>(s.radii[i]);
      const bool visible = s.radii[i] > 0;
      s.largest_radii[i] = std::max(s.largest_radii[i], radius);
      s.gradient_sums[i] += visible ? norm : 0.0f;
      s.visits[i] += visible ? 1.0f : 0.0f;
    }
  });
}

void add_floats(float* total, const float* part, int64_t count, int threads) {
  in_chunks(count, threads, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) total[i] += part[i];
  });
}

void add_signs(const WeightedSigns& s, int threads) {
  const int64_t rows_at_once = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, s.width));
  ThreadPool::run(threads, (s.rows + rows_at_once - 1) / rows_at_once, [&](int64_t chunk, int) {
    const int64_t end = std::min(s.rows, (chunk + 1) * rows_at_once);
    for (int64_t row = chunk * rows_at_once; row < end; ++row) {
      const float weight = s.weights[row * s.weight_stride];
      const float* values = s.values + row * s.width;
      float* gradients = s.gradients + row * s.width;
      for (int64_t i = 0; i < s.width; ++i) {
        gradients[i] += (values[i] > 0.0f ? weight : 0.0f) - (values[i] < 0.0f ? weight : 0.0f);
      }
    }
  });
}

}  // namespace rasterizer
