// SPDX-License-Identifier: Apache-2.0
// One step of Adam with the straight-through estimator: the gradient was taken at the quantised values (`seen`), and is
// applied to the full-precision parameters, which are quantised again. One pass over the memory.
#pragma once

#include <cstdint>

#include "adam.h"

namespace rasterizer {

enum QuantizerKind : int32_t { kExact = 0, kHalf = 1, kGrid = 2 };

struct StraightThroughGroup {
  AdamGroup adam;
  float* seen;       // the quantised values, written; unused where kind is kExact
  int32_t kind;      // QuantizerKind
  float minimum;     // of the grid: value = minimum + step * symbol
  float step;
  float top;         // largest symbol
};

// Range of the parameters after the step.
struct ParameterRange {
  float low, high;
};

#if !defined(__CUDACC__)  // functions for CPUs
void straight_through_step(const StraightThroughGroup& group, const AdamConstants& constants, ParameterRange* range,
                           int threads);
#endif

}  // namespace rasterizer
