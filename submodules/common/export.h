// SPDX-License-Identifier: Apache-2.0
// EXPORT: a function of the library's C interface. All other names are hidden.
#pragma once

#if !defined(__GNUC__) && !defined(__clang__)
#error "GCC or Clang is needed, on Windows clang++ or clang-cl: the vectors are those of these compilers"
#endif

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif
