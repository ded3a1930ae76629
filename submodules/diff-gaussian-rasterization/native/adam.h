// SPDX-License-Identifier: Apache-2.0
// Adam (Kingma and Ba 2015), over all elements or over chosen rows.
#pragma once

#include <cstdint>

namespace rasterizer {

// One parameter array with its gradient and moments, each `rows` x `width` floats.
struct AdamGroup {
  float* parameter;
  const float* gradient;
  float* mean;      // first moment
  float* variance;  // second moment, not centred
  int64_t rows;
  int64_t width;
  float step_size;            // learning rate, over the bias correction of the mean
  float variance_correction;  // 1 / sqrt(bias correction of the variance)
};

struct AdamConstants {
  double beta_mean, beta_variance, epsilon;  // 1 - beta is not exact enough in single precision
};

#if !defined(__CUDACC__)  // functions for CPUs
// Rows where `chosen` (one byte per row) is 0 do not change, nor do their moments; null chooses all rows.
void adam_step(const AdamGroup& group, const AdamConstants& constants, const uint8_t* chosen, int threads);
#endif

}  // namespace rasterizer
