// SPDX-License-Identifier: Apache-2.0
// Sums over many views.
#pragma once

#include <cstdint>

namespace rasterizer {

// Mirrored in statistics.py of the package. All have one row per Gaussian.
struct ViewStatistics {
  const int32_t* radii;       // pixels, 0 where not visible
  const float* screen;        // rows of two floats and more, `screen_width` apart
  int64_t count;
  int64_t screen_width;
  float* largest_radii;       // over the views
  float* gradient_sums;       // of the norms of `screen`, where visible
  float* visits;              // views in which it was visible
};

#if !defined(__CUDACC__)  // functions for CPUs
void add_view(const ViewStatistics& statistics, int threads);

// total += part, element by element.
void add_floats(float* total, const float* part, int64_t count, int threads);
#endif

// A penalty's gradient: gradients += weight x sign(values), row by row.
struct WeightedSigns {
  float* gradients;
  const float* values;
  int64_t rows;
  int64_t width;
  const float* weights;  // one for all rows, or one a row
  int64_t weight_stride;  // 0 or 1
};

#if !defined(__CUDACC__)  // functions for CPUs
void add_signs(const WeightedSigns& signs, int threads);
#endif

}  // namespace rasterizer
