// SPDX-License-Identifier: Apache-2.0
// Which build of a kernel library this processor can run.
#pragma once

#include "export.h"

#if defined(__x86_64__) && (defined(_WIN32) || defined(FAST3DGS_CPUID))
#include <cpuid.h>

#include <cstdint>
#include <initializer_list>

// The level by the processor's own instructions: Clang for Windows does not link the library of the compiler's check.
// Bits as in Intel's manual, volume 2, CPUID and XGETBV.
inline int cpu_level_by_cpuid() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 1;
  const uint32_t first = c;
  const auto has = [](uint32_t word, std::initializer_list<int> bits) {
    for (const int bit : bits) {
      if ((word >> bit & 1) == 0) return false;
    }
    return true;
  };
  if (!has(first, {9, 19, 20, 23})) return 1;                      // SSSE3, SSE4.1, SSE4.2, POPCNT
  if (!has(first, {12, 27, 28}) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 2;  // FMA, OSXSAVE, AVX
  uint32_t saved = 0, high = 0;                                    // the registers that the operating system saves
  asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  if (!has(b, {3, 5, 8}) || (saved & 0x6) != 0x6) return 2;        // BMI1, AVX2, BMI2
  return has(b, {16, 17, 28, 30, 31}) && (saved & 0xe6) == 0xe6 ? 4 : 3;  // AVX-512 F, DQ, CD, BW, VL
}
#endif

// The x86-64 micro-architecture level of this processor (2, 3 or 4; 1 for less than 2), or 0 on other architectures.
// Levels as in the x86-64 psABI. The compiler's run-time check includes the operating system's support for the registers.
EXPORT __attribute__((used)) inline int cpu_level() {
#if defined(__x86_64__) && (defined(_WIN32) || defined(FAST3DGS_CPUID))
  return cpu_level_by_cpuid();
#elif defined(__x86_64__)
  __builtin_cpu_init();
  const bool v2 = __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1") &&
                  __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return v4 ? 4 : v3 ? 3 : v2 ? 2 : 1;
#else
  return 0;
#endif
}
