// SPDX-License-Identifier: Apache-2.0
// Sums over many views, as statistics.cpp.
#include "cuda_kernel.h"

#include "statistics.h"

using namespace cuda;
using rasterizer::ViewStatistics;
using rasterizer::WeightedSigns;

// One thread a Gaussian.
KERNEL(add_view, 256, ViewStatistics) {
  const ViewStatistics& s = arguments;
  const int64_t i = global_thread();
  if (i >= s.count) return;
  const int32_t radius = s.radii[i];
  if (radius <= 0) return;
  const float* gradient = s.screen + i * s.screen_width;
  s.largest_radii[i] = greatest(s.largest_radii[i], static_cast<float>(radius));
  s.gradient_sums[i] += sqrtf(fmaf(gradient[0], gradient[0], gradient[1] * gradient[1]));
  s.visits[i] += 1.0f;
}

// Mirrored in cuda_statistics.py of the package.
struct SumArguments {
  float* total;
  const float* part;
  int64_t count;
};

// One thread a number.
KERNEL(add_floats, 256, SumArguments) {
  const int64_t i = global_thread();
  if (i < arguments.count) arguments.total[i] += arguments.part[i];
}

// One thread a number: a penalty's gradient, weight x sign(value).
KERNEL(add_signs, 256, WeightedSigns) {
  const WeightedSigns& s = arguments;
  const int64_t i = global_thread();
  if (i >= s.rows * s.width) return;
  const float weight = s.weights[i / s.width * s.weight_stride], value = s.values[i];
  s.gradients[i] += (value > 0.0f ? weight : 0.0f) - (value < 0.0f ? weight : 0.0f);
}
