// SPDX-License-Identifier: Apache-2.0
// The window of SSIM, and SSIM of one pixel with its slopes: once, for CPUs and GPUs. ssim.cpp derives the formulas.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define SSIM_FUNCTION __host__ __device__ __forceinline__
#else
#define SSIM_FUNCTION inline
#endif

namespace ssim {

constexpr int kRadius = 5;
constexpr int kTaps = 2 * kRadius + 1;
constexpr float kTwiceC1 = 2 * 0.01f * 0.01f;
constexpr float kTwiceC2 = 2 * 0.03f * 0.03f;

// exp(-k^2 / (2 * 1.5^2)) for k = -5 ... 5, divided by their sum. Device code cannot index an array of this scope: window() is
// for it. Compilers for CPUs vectorise only loops that read the array.
#define SSIM_WINDOW                                                                                                     \
  {0.0010283801f, 0.0075987581f, 0.0360007721f, 0.1093606895f, 0.2130055377f, 0.2660117249f,                            \
   0.2130055377f, 0.1093606895f, 0.0360007721f, 0.0075987581f, 0.0010283801f}
constexpr float kWindow[kTaps] = SSIM_WINDOW;

SSIM_FUNCTION float window(int tap) {
  constexpr float kValues[kTaps] = SSIM_WINDOW;
  return kValues[tap];
}

// SSIM of one pixel, and the three numbers whose filtered maps make up the gradient.
struct Comparison {
  float ssim, slope_mean, slope_uu, slope_vv;
};

SSIM_FUNCTION float at_least_zero(float a) { return a < 0.0f ? 0.0f : a; }

// From the filtered sum u, difference v and their squares.
SSIM_FUNCTION Comparison compare(float u, float v, float mean_uu, float mean_vv) {
  const float uu = u * u, vv = v * v;
  // A variance is never negative, except by rounding; C2 alone keeps images far outside of [0, 1] from dividing by 0.
  const float a = at_least_zero(mean_uu - uu);
  const float b = at_least_zero(mean_vv - vv);
  const float denominator1 = uu + vv + kTwiceC1;
  const float denominator2 = a + b + kTwiceC2;
  const float inverse = 1.0f / (denominator1 * denominator2);
  const float inverse1 = denominator2 * inverse, inverse2 = denominator1 * inverse;
  const float luminance = (uu - vv + kTwiceC1) * inverse1;
  const float contrast = (a - b + kTwiceC2) * inverse2;
  const float factor1 = contrast * inverse1 * inverse1;
  const float factor2 = luminance * inverse2 * inverse2;
  const float alpha = factor2 * b;
  const float beta = -factor2 * (a + kTwiceC2);
  return {luminance * contrast, u * (factor1 * vv - alpha) - v * (factor1 * (uu + kTwiceC1) + beta), alpha, beta};
}

}  // namespace ssim
