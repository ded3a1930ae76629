// SPDX-License-Identifier: Apache-2.0
// The part of CUDA that our kernels use, for g++ on a CPU, for tests: threads are fibres, and every access to memory is checked.
// docs/gpu.md, "Proof without a GPU", lists what is checked; the scheduler is cuda_emulation.cpp.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

// Functions of the emulation itself are neither checked nor inlined into code that is.
#define EMULATION_UNCHECKED __attribute__((no_sanitize("thread"), noinline))

#define DEVICE inline
#define __device__
#define __host__
#define __forceinline__
#define __restrict__ __restrict
// Only in the body of a kernel: variables of templates and inline functions cannot share a section with these.
#define __shared__ static __attribute__((section("emulated_shared")))

// Defines the kernel, and what the emulation calls and verifies.
#define KERNEL(name, threads, Arguments)                                                  \
  static void name##_body(const Arguments arguments);                                     \
  extern "C" __attribute__((visibility("default"))) void name(const void* arguments) {    \
    name##_body(*static_cast<const Arguments*>(arguments));                               \
  }                                                                                       \
  extern "C" {                                                                            \
  __attribute__((visibility("default"))) extern const uint32_t name##_threads = threads;  \
  __attribute__((visibility("default"))) extern const uint32_t name##_bytes = sizeof(Arguments); \
  }                                                                                       \
  static void name##_body(const Arguments arguments)

namespace emulation {

struct Index {
  unsigned x, y, z;
};
Index thread_index();
Index block_index();
Index block_size();
Index grid_size();

enum class Operation : uint32_t { kSynchronise, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kBallot, kMatch };

// Waits until all lanes of the mask are at the same operation; the result of this lane.
uint64_t warp_operation(Operation operation, unsigned mask, uint64_t value, unsigned argument);
void wait_for_block();
void before_atomic(const void* address, unsigned bytes);

template <class T>
EMULATION_UNCHECKED T exchange(Operation operation, unsigned mask, T value, unsigned argument) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "lanes exchange 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = warp_operation(operation, mask, bits, argument);
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Replaces *address by function(*address), and returns the old value.
template <class T, class Function>
EMULATION_UNCHECKED T atomically(T* address, Function function) {
  before_atomic(address, sizeof(T));
  const T old = *address;
  *address = function(old);
  return old;
}

}  // namespace emulation

#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::block_index())
#define blockDim (emulation::block_size())
#define gridDim (emulation::grid_size())

inline void __syncthreads() { emulation::wait_for_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulation::warp_operation(emulation::Operation::kSynchronise, mask, 0, 0);
}
template <class T>
T __shfl_sync(unsigned mask, T value, unsigned source) {
  return emulation::exchange(emulation::Operation::kShuffle, mask, value, source);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  return emulation::exchange(emulation::Operation::kShuffleUp, mask, value, delta);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  return emulation::exchange(emulation::Operation::kShuffleDown, mask, value, delta);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits) {
  return emulation::exchange(emulation::Operation::kShuffleXor, mask, value, bits);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  return static_cast<unsigned>(emulation::warp_operation(emulation::Operation::kBallot, mask, vote, 0));
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == mask; }
inline unsigned __match_any_sync(unsigned mask, uint32_t value) {
  return static_cast<unsigned>(emulation::warp_operation(emulation::Operation::kMatch, mask, value, 0));
}

template <class T>
T atomicAdd(T* address, T value) {
  return emulation::atomically(address, [value](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(T* address, T value) {
  return emulation::atomically(address, [value](T old) { return old < value ? value : old; });
}
template <class T>
T atomicMin(T* address, T value) {
  return emulation::atomically(address, [value](T old) { return value < old ? value : old; });
}
template <class T>
T atomicOr(T* address, T value) {
  return emulation::atomically(address, [value](T old) { return static_cast<T>(old | value); });
}

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline int __clz(int a) { return a == 0 ? 32 : __builtin_clz(static_cast<unsigned>(a)); }
// Each rounded by itself: never part of a fused multiply-add.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline unsigned __float_as_uint(float a) {
  unsigned bits;
  memcpy(&bits, &a, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned a) {
  float value;
  memcpy(&value, &a, sizeof value);
  return value;
}

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
