// SPDX-License-Identifier: Apache-2.0
// Adam over all elements of an array, or over chosen rows.
#include "cuda_kernel.h"

#include "cuda_adam.h"

using namespace cuda;

// Mirrored in cuda_adam.py of the package.
struct AdamArguments {
  float* parameter;  // (rows, width), as the three below
  const float* gradient;
  float* mean;
  float* variance;
  const uint8_t* chosen;  // (rows): rows of 0 do not change; null chooses all
  int64_t rows;
  int64_t width;
  AdamFactors factors;
};

// One thread a number.
KERNEL(adam_update, 256, AdamArguments) {
  const int64_t i = global_thread();
  if (i >= arguments.rows * arguments.width) return;
  if (arguments.chosen != nullptr && arguments.chosen[i / arguments.width] == 0) return;
  float mean = arguments.mean[i], variance = arguments.variance[i];
  arguments.parameter[i] = adam_moved(arguments.factors, arguments.parameter[i], arguments.gradient[i], mean, variance);
  arguments.mean[i] = mean;
  arguments.variance[i] = variance;
}
