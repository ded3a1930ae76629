// SPDX-License-Identifier: Apache-2.0
// One step of Adam on parameters whose decoded values (`seen`) are those of a version-2 file: rounded to grids whose steps
// follow from each Gaussian's precision class and scales, SH and colour in a transformed basis. One pass over the memory.
#pragma once

#include <cstdint>

#include "adam.h"

namespace rasterizer {

constexpr int kClasses = 32;  // of precision

// value = minimum + step * symbol, symbols from 0 to `top`.
struct EvenGrid {
  float minimum, step, top;
};

// min(max((bias + factors . (class, three scale symbols)) >> 16, 0), most)
struct LinearRule {
  int64_t bias, factors[4], most;
};

struct GridConstants {
  float origin[3];  // of the cells
  float cell, top_cell;
  float rotation_step;
  EvenGrid opacity, scale;
  LinearRule position_shift, rotation_shift;
  float dc_forward[9], dc_unit;   // row vector x forward / unit is rounded
  float dc_inverse[9], dc_step;   // row vector of symbols x inverse x step: the value; whole numbers
  float dc_low[3];                // the value of symbol 0, in steps
  float dc_size[kClasses];        // one symbol, in steps
  float sh_step[kClasses];        // symbols x matrix x step: the values
  float sh_steps_per_unit[kClasses];  // coordinate x this is rounded
  const float* sh_matrix;         // (channels, channels), whole numbers
  float sh_unit;                  // the number for 1 in the matrix
  float sh_rounding;              // added to a magnitude before it is truncated; below 1
};

// SH parameters are coordinates: the values are coordinates x matrix / unit. Gradients are for the parameters; for all but
// the SH these equal the ones for the decoded values.
struct GridAttribute {
  AdamGroup adam;
  float* seen;  // written
};

struct GridModel {
  int64_t count;
  GridAttribute xyz, dc, rest, opacity, scaling, rotation;
  const uint8_t* classes;  // one a row
  const uint8_t* far;      // whether the row's centre is outside the cells, and not rounded
};

#if !defined(__CUDACC__)  // functions for CPUs
// Turns gradients (rows, channels) for decoded SH, in place, into those for their coordinates.
void pull_back(float* gradients, int64_t rows, const GridConstants& grids, int channels, int threads);

void grid_step(const GridModel& model, const GridConstants& grids, const AdamConstants& constants, int threads);
#endif

}  // namespace rasterizer
