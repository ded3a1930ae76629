// SPDX-License-Identifier: Apache-2.0
// What every .cu file includes first. Three compilers read it: NVRTC, nvcc, and g++ for the emulation on a CPU.
#pragma once

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define DEVICE __device__ __forceinline__
// A kernel: its name, the threads in a block (a literal number, which the host reads from the source), and the type of its
// one argument, `arguments`. The argument stays in constant memory.
#define KERNEL(name, threads, Arguments) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Arguments arguments)
#else
#include "cuda_emulation.h"
#endif

namespace cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

DEVICE int64_t global_thread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
DEVICE unsigned lane() { return threadIdx.x % kWarp; }
DEVICE unsigned warp() { return threadIdx.x / kWarp; }

DEVICE float infinity() { return __uint_as_float(0x7f800000u); }

template <class T>
DEVICE T least(T a, T b) {
  return b < a ? b : a;
}
template <class T>
DEVICE T greatest(T a, T b) {
  return a < b ? b : a;
}

// The sum over the lanes of a warp, in every lane; always in the same order.
template <class T>
DEVICE T warp_sum(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// The sum of the values of the lanes before this one and its own.
template <class T>
DEVICE T warp_running_sum(T value) {
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T other = __shfl_up_sync(kAllLanes, value, offset);
    if (lane() >= static_cast<unsigned>(offset)) value += other;
  }
  return value;
}

}  // namespace cuda
