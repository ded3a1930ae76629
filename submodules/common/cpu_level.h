// SPDX-License-Identifier: Apache-2.0
// Which build of a kernel library this processor can run.
#pragma once

// The x86-64 micro-architecture level of this processor (2, 3 or 4; 1 for less than 2), or 0 on other architectures.
// Levels as in the x86-64 psABI. The compiler's run-time check includes the operating system's support for the registers.
extern "C" __attribute__((used, visibility("default"))) inline int cpu_level() {
#if defined(__x86_64__)
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
