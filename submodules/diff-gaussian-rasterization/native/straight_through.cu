// SPDX-License-Identifier: Apache-2.0
// One step of Adam with the straight-through estimator, as straight_through.cpp; the range in two kernels.
#include "cuda_kernel.h"

#include "cuda_adam.h"
#include "straight_through.h"

using namespace cuda;
using rasterizer::kGrid;
using rasterizer::kHalf;
using rasterizer::ParameterRange;

constexpr int kThreads = 256;
constexpr int kNumbers = 8;  // of a thread

// Mirrored in cuda_straight_through.py of the package.
struct StraightThroughArguments {
  float* parameter;
  const float* gradient;
  float* mean;
  float* variance;
  float* seen;             // the quantised values; null where kind is kExact
  ParameterRange* ranges;  // (blocks)
  ParameterRange* range;   // (1)
  int64_t count;
  int64_t blocks;
  AdamFactors factors;
  int32_t kind;            // rasterizer::QuantizerKind
  float minimum, step, top;
};

// As on CPUs: the second where either is not a number.
DEVICE float clamped(float a, float low, float high) {
  const float raised = a > low ? a : low;
  return raised < high ? raised : high;
}

// Limited to the range of half precision and rounded to it, ties to even.
DEVICE float to_half_and_back(float a) {
  constexpr float kLargestHalf = 65504.0f, kLeastNormal = 6.103515625e-5f;
  const float limited = clamped(a, -kLargestHalf, kLargestHalf), magnitude = fabsf(limited);
  // Of smaller numbers only multiples of 2^-24 exist, as of single precision beside 0.75.
  if (magnitude < kLeastNormal) return copysignf(__fsub_rn(__fadd_rn(magnitude, 0.75f), 0.75f), limited);
  const uint32_t bits = __float_as_uint(limited);
  return __uint_as_float((bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu);
}

DEVICE float quantised(const StraightThroughArguments& a, float value) {
  if (a.kind == kHalf) return to_half_and_back(value);
  const float symbol = clamped(rintf(__fdiv_rn(__fsub_rn(value, a.minimum), a.step)), 0.0f, a.top);
  return __fadd_rn(__fmul_rn(symbol, a.step), a.minimum);
}

DEVICE ParameterRange joined(const ParameterRange& a, const ParameterRange& b) {
  return {fminf(a.low, b.low), fmaxf(a.high, b.high)};
}

// The range of all threads of the block, in thread 0. `scratch`: one a thread.
DEVICE ParameterRange block_range(const ParameterRange& own, ParameterRange* scratch) {
  scratch[threadIdx.x] = own;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) scratch[threadIdx.x] = joined(scratch[threadIdx.x], scratch[threadIdx.x + half]);
    __syncthreads();
  }
  return scratch[0];
}

KERNEL(straight_through_update, 256, StraightThroughArguments) {
  __shared__ ParameterRange scratch[kThreads];
  const StraightThroughArguments& a = arguments;
  ParameterRange range = {infinity(), -infinity()};
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kThreads * kNumbers + threadIdx.x;
  for (int k = 0; k < kNumbers; ++k) {
    const int64_t i = begin + k * kThreads;
    if (i >= a.count) break;
    float mean = a.mean[i], variance = a.variance[i];
    const float moved = adam_moved(a.factors, a.parameter[i], a.gradient[i], mean, variance);
    a.mean[i] = mean;
    a.variance[i] = variance;
    a.parameter[i] = moved;
    if (a.seen != nullptr) a.seen[i] = quantised(a, moved);
    range = joined(range, {moved, moved});
  }
  const ParameterRange all = block_range(range, scratch);
  if (threadIdx.x == 0) a.ranges[blockIdx.x] = all;
}

// One block.
KERNEL(join_ranges, 256, StraightThroughArguments) {
  __shared__ ParameterRange scratch[kThreads];
  const StraightThroughArguments& a = arguments;
  ParameterRange range = {infinity(), -infinity()};
  for (int64_t i = threadIdx.x; i < a.blocks; i += kThreads) range = joined(range, a.ranges[i]);
  const ParameterRange all = block_range(range, scratch);
  if (threadIdx.x == 0) *a.range = all;
}
