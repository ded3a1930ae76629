// SPDX-License-Identifier: Apache-2.0
// Adam on one number, for all kernels that contain a step.
#pragma once

#include "cuda_kernel.h"

namespace cuda {

// A step's constants, in single precision: those of AdamConstants and AdamGroup (adam.h).
struct AdamFactors {
  float fresh_mean;           // 1 - beta of the mean
  float beta_variance;
  float fresh_variance;       // 1 - beta_variance
  float epsilon;
  float step_size;            // learning rate, over the bias correction of the mean
  float variance_correction;  // 1 / sqrt(bias correction of the variance)
};

// Updates both moments; the new parameter.
DEVICE float adam_moved(const AdamFactors& k, float parameter, float gradient, float& mean, float& variance) {
  mean = fmaf(k.fresh_mean, gradient - mean, mean);
  variance = fmaf(k.fresh_variance * gradient, gradient, k.beta_variance * variance);
  return parameter - k.step_size * mean / fmaf(sqrtf(variance), k.variance_correction, k.epsilon);
}

}  // namespace cuda
