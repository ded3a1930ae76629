// SPDX-License-Identifier: Apache-2.0
// `Float`: as many floats as the widest native register holds, and `Mask`: one truth value for each of them.
//
// Native width only: compilers lower wider vectors so badly that it costs a factor of seven (measured). The formulas are
// written once over a type `F`; this header and the scalar functions of formulas.h have the same functions for it.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace simd {

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

constexpr int kLanes = 16;

struct Mask {
  __mmask16 m;
};

struct Float {
  __m512 v;
  Float() = default;
  Float(__m512 value) : v(value) {}
  Float(float value) : v(_mm512_set1_ps(value)) {}
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
};

// An integer (or what stands for it) and the rest, in [0, 1] on AVX-512, elsewhere in [-0.5, 0.5].
struct Split {
  Float whole, fraction;
};

inline Float operator+(Float a, Float b) { return _mm512_add_ps(a.v, b.v); }
inline Float operator-(Float a, Float b) { return _mm512_sub_ps(a.v, b.v); }
inline Float operator*(Float a, Float b) { return _mm512_mul_ps(a.v, b.v); }
inline Float operator/(Float a, Float b) { return _mm512_div_ps(a.v, b.v); }
inline Float operator-(Float a) { return _mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f)); }
inline Mask operator<(Float a, Float b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask operator<=(Float a, Float b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
inline Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.m | b.m)}; }
inline Mask and_not(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & ~b.m)}; }

inline bool any(Mask a) { return a.m != 0; }
inline uint32_t bits(Mask a) { return a.m; }
inline Mask from_bits(uint32_t value) { return {static_cast<__mmask16>(value)}; }
// c - a b in the chosen lanes, elsewhere c.
inline Float fnmadd_where(Mask m, Float a, Float b, Float c) { return _mm512_mask3_fnmadd_ps(a.v, b.v, c.v, m.m); }
// a made negative in the chosen lanes, elsewhere b.
inline Float negative_where(Mask m, Float a, Float b) { return _mm512_mask_or_ps(b.v, m.m, a.v, _mm512_set1_ps(-0.0f)); }
inline bool all_negative(Float a) {
  const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(a.v));
  return _kortestc_mask16_u8(negative, negative) != 0;
}
inline Float select(Mask m, Float yes, Float no) { return _mm512_mask_blend_ps(m.m, no.v, yes.v); }
inline Float fmadd(Float a, Float b, Float c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
inline Float fnmadd(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a.v, b.v, c.v); }
inline Float minimum(Float a, Float b) { return _mm512_min_ps(a.v, b.v); }
inline Float maximum(Float a, Float b) { return _mm512_max_ps(a.v, b.v); }
inline Float square_root(Float a) { return _mm512_sqrt_ps(a.v); }
inline Float round_nearest(Float a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Float round_down(Float a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline Float scale_by_power_of_two(Float a, Float integer) { return _mm512_scalef_ps(a.v, integer.v); }
// For power_of_two; the scaling above rounds the exponent down by itself.
inline Split split(Float a) { return {a, _mm512_reduce_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline Float exponent(Float a) { return _mm512_getexp_ps(a.v); }
inline Float mantissa(Float a) { return _mm512_getmant_ps(a.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero); }

// out[i] = the sum of the lanes of vectors[i]; `out` has room for 16. Halving and merging pairs of vectors takes half of
// the instructions of one sum after the other.
template <int kCount>
inline void sum_each(const Float (&vectors)[kCount], float* out) {
  static_assert(kCount > 8 && kCount <= 12, "written for about ten");
  const auto at = [&](int i) { return i < kCount ? vectors[i].v : _mm512_setzero_ps(); };
  const auto halves = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const auto quarters = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  const auto pairs = [](__m512 a, __m512 b) { return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); };
  const __m512 a = quarters(halves(at(0), at(1)), halves(at(2), at(3)));
  const __m512 b = quarters(halves(at(4), at(5)), halves(at(6), at(7)));
  const __m512 c = quarters(halves(at(8), at(9)), halves(at(10), at(11)));
  const __m512 ab = pairs(a, b), cc = pairs(c, c);
  const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cc, 0x44), _mm512_shuffle_ps(ab, cc, 0xee));
  // Lane 4 q + j now holds vector 4 j + q.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_ps(out, _mm512_permutexvar_ps(order, all));
}
inline void store_integers(int32_t* p, Float a) { _mm512_storeu_si512(p, _mm512_cvttps_epi32(a.v)); }
// Lane i of vector j becomes lane j of vector i.
inline void transpose(Float (&rows)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    rows[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    rows[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    rows[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(rows[i].v, rows[i + 4].v, 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(rows[i].v, rows[i + 4].v, 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(rows[i + 8].v, rows[i + 12].v, 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(rows[i + 8].v, rows[i + 12].v, 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}
// 1/a to about 1e-7, relatively.
inline Float reciprocal(Float a) {
  const __m512 r = _mm512_rcp14_ps(a.v);
  return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(1.0f)), r);
}

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int kLanes = 8;

struct Mask {
  __m256 m;
};

struct Float {
  __m256 v;
  Float() = default;
  Float(__m256 value) : v(value) {}
  Float(float value) : v(_mm256_set1_ps(value)) {}
  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
};

// An integer (or what stands for it) and the rest, in [0, 1] on AVX-512, elsewhere in [-0.5, 0.5].
struct Split {
  Float whole, fraction;
};

inline Float operator+(Float a, Float b) { return _mm256_add_ps(a.v, b.v); }
inline Float operator-(Float a, Float b) { return _mm256_sub_ps(a.v, b.v); }
inline Float operator*(Float a, Float b) { return _mm256_mul_ps(a.v, b.v); }
inline Float operator/(Float a, Float b) { return _mm256_div_ps(a.v, b.v); }
inline Float operator-(Float a) { return _mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f)); }
inline Mask operator<(Float a, Float b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask operator<=(Float a, Float b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.m, b.m)}; }
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.m, b.m)}; }
inline Mask and_not(Mask a, Mask b) { return {_mm256_andnot_ps(b.m, a.m)}; }

inline bool any(Mask a) { return !_mm256_testz_ps(a.m, a.m); }
inline uint32_t bits(Mask a) { return static_cast<uint32_t>(_mm256_movemask_ps(a.m)); }
inline Float fnmadd_where(Mask m, Float a, Float b, Float c) {
  return _mm256_blendv_ps(c.v, _mm256_fnmadd_ps(a.v, b.v, c.v), m.m);
}
inline Float negative_where(Mask m, Float a, Float b) {
  return _mm256_blendv_ps(b.v, _mm256_or_ps(a.v, _mm256_set1_ps(-0.0f)), m.m);
}
inline bool all_negative(Float a) { return _mm256_movemask_ps(a.v) == 0xff; }
inline Mask from_bits(uint32_t value) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i hit = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(value)), bit);
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(hit, bit))};
}
inline Float select(Mask m, Float yes, Float no) { return _mm256_blendv_ps(no.v, yes.v, m.m); }
inline Float fmadd(Float a, Float b, Float c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
inline Float fnmadd(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a.v, b.v, c.v); }
inline Float minimum(Float a, Float b) { return _mm256_min_ps(a.v, b.v); }
inline Float maximum(Float a, Float b) { return _mm256_max_ps(a.v, b.v); }
inline Float square_root(Float a) { return _mm256_sqrt_ps(a.v); }
inline Float round_nearest(Float a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Float round_down(Float a) { return _mm256_floor_ps(a.v); }
// The integer must lie in [-126, 127], and a in [0.5, 2).
inline Float scale_by_power_of_two(Float a, Float integer) {
  const __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(integer.v), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), power));
}
inline Split split(Float a) {
  const Float whole = round_nearest(a);
  return {whole, a - whole};
}
inline Float exponent(Float a) {
  const __m256i biased = _mm256_srli_epi32(_mm256_castps_si256(a.v), 23);
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)));
}
inline Float mantissa(Float a) {
  const __m256i fraction = _mm256_and_si256(_mm256_castps_si256(a.v), _mm256_set1_epi32(0x007fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f800000)));
}
inline float sum_lanes(Float a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline void store_integers(int32_t* p, Float a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvttps_epi32(a.v));
}
inline void transpose(Float (&rows)[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    rows[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    rows[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    rows[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    rows[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    const __m256 low = _mm256_permute2f128_ps(rows[i].v, rows[i + 4].v, 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(rows[i].v, rows[i + 4].v, 0x31);
    rows[i] = low;
  }
}
template <int kCount>
inline void sum_each(const Float (&vectors)[kCount], float* out) {
  static_assert(kCount >= 8, "written for about ten");
  const auto halves = [](Float a, Float b) {
    return _mm256_add_ps(_mm256_permute2f128_ps(a.v, b.v, 0x20), _mm256_permute2f128_ps(a.v, b.v, 0x31));
  };
  const auto pairs = [](__m256 a, __m256 b) { return _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)); };
  const __m256 a = pairs(halves(vectors[0], vectors[4]), halves(vectors[1], vectors[5]));
  const __m256 b = pairs(halves(vectors[2], vectors[6]), halves(vectors[3], vectors[7]));
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee)));
  for (int i = 8; i < kCount; ++i) out[i] = sum_lanes(vectors[i]);
}
inline Float reciprocal(Float a) { return _mm256_div_ps(_mm256_set1_ps(1.0f), a.v); }

#else  // four lanes in the compilers' common vector extension: SSE, NEON and any other 16-byte registers

constexpr int kLanes = 4;

typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(16)));

struct Mask {
  Integers m;
};

struct Float {
  Floats v;
  Float() = default;
  Float(Floats value) : v(value) {}
  Float(float value) : v(Floats{value, value, value, value}) {}
  static Float load(const float* p) {
    Floats value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  void store(float* p) const { std::memcpy(p, &v, sizeof v); }
};

// An integer (or what stands for it) and the rest, in [0, 1] on AVX-512, elsewhere in [-0.5, 0.5].
struct Split {
  Float whole, fraction;
};

inline Float operator+(Float a, Float b) { return a.v + b.v; }
inline Float operator-(Float a, Float b) { return a.v - b.v; }
inline Float operator*(Float a, Float b) { return a.v * b.v; }
inline Float operator/(Float a, Float b) { return a.v / b.v; }
inline Float operator-(Float a) { return -a.v; }
inline Mask operator<(Float a, Float b) { return {a.v < b.v}; }
inline Mask operator<=(Float a, Float b) { return {a.v <= b.v}; }
inline Mask operator&(Mask a, Mask b) { return {a.m & b.m}; }
inline Mask operator|(Mask a, Mask b) { return {a.m | b.m}; }
inline Mask and_not(Mask a, Mask b) { return {a.m & ~b.m}; }

inline uint32_t bits(Mask a) {
#if defined(__SSE2__)
  return static_cast<uint32_t>(__builtin_ia32_movmskps((Floats)a.m));
#else
  const Integers set = a.m & Integers{1, 2, 4, 8};
  return static_cast<uint32_t>(set[0] | set[1] | set[2] | set[3]);
#endif
}
inline bool any(Mask a) { return bits(a) != 0; }
inline bool all_negative(Float a) { return bits({(Integers)a.v < 0}) == 0xf; }
inline Mask from_bits(uint32_t value) {
  const Integers bit = {1, 2, 4, 8};
  const int32_t same = static_cast<int32_t>(value);
  return {(Integers{same, same, same, same} & bit) == bit};
}
inline Float select(Mask m, Float yes, Float no) {
  return (Floats)((m.m & (Integers)yes.v) | (~m.m & (Integers)no.v));
}
#if defined(__ARM_NEON) && defined(__aarch64__)
inline Float fmadd(Float a, Float b, Float c) {
  return (Floats)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v);
}
inline Float fnmadd(Float a, Float b, Float c) {
  return (Floats)vfmsq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v);
}
#else
inline Float fmadd(Float a, Float b, Float c) { return a.v * b.v + c.v; }
inline Float fnmadd(Float a, Float b, Float c) { return c.v - a.v * b.v; }
#endif
inline Float fnmadd_where(Mask m, Float a, Float b, Float c) { return select(m, fnmadd(a, b, c), c); }
inline Float negative_where(Mask m, Float a, Float b) { return select(m, (Floats)((Integers)a.v | INT32_MIN), b); }
// As on x86, the second operand where either is not a number.
inline Float minimum(Float a, Float b) { return select(a < b, a, b); }
inline Float maximum(Float a, Float b) { return select(b < a, a, b); }
inline Float square_root(Float a) {
#if defined(__SSE2__)
  return __builtin_ia32_sqrtps(a.v);
#else
  return Floats{__builtin_sqrtf(a.v[0]), __builtin_sqrtf(a.v[1]), __builtin_sqrtf(a.v[2]), __builtin_sqrtf(a.v[3])};
#endif
}
// Adding and subtracting 1.5 * 2^23 rounds the fraction away; larger numbers have none.
inline Float round_nearest(Float a) {
  const Floats magic = {12582912.0f, 12582912.0f, 12582912.0f, 12582912.0f};
  const Float rounded = (a.v + magic) - magic;
  const Mask small = (a < Float(4194304.0f)) & (Float(-4194304.0f) < a);
  return select(small, rounded, a);
}
inline Float round_down(Float a) {
  const Float rounded = round_nearest(a);
  return select(a < rounded, rounded - Float(1.0f), rounded);
}
inline Integers to_integers(Float a) { return __builtin_convertvector(a.v, Integers); }
// The integer must lie in [-126, 127], and a in [0.5, 2).
inline Float scale_by_power_of_two(Float a, Float integer) {
  return (Floats)((Integers)a.v + to_integers(integer) * (1 << 23));
}
inline Split split(Float a) {
  const Float whole = round_nearest(a);
  return {whole, a - whole};
}
inline Float exponent(Float a) { return __builtin_convertvector(((Integers)a.v >> 23) - 127, Floats); }
inline Float mantissa(Float a) { return (Floats)(((Integers)a.v & 0x007fffff) | 0x3f800000); }
inline float sum_lanes(Float a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline void store_integers(int32_t* p, Float a) {
  const Integers value = to_integers(a);
  std::memcpy(p, &value, sizeof value);
}
inline void transpose(Float (&rows)[4]) {
  const Float old[4] = {rows[0], rows[1], rows[2], rows[3]};
  for (int i = 0; i < 4; ++i) rows[i] = Floats{old[0].v[i], old[1].v[i], old[2].v[i], old[3].v[i]};
}
template <int kCount>
inline void sum_each(const Float (&vectors)[kCount], float* out) {
  for (int i = 0; i < kCount; ++i) out[i] = sum_lanes(vectors[i]);
}
inline Float reciprocal(Float a) { return Float(1.0f) / a; }

#endif

inline Mask operator>(Float a, Float b) { return b < a; }
inline Mask operator>=(Float a, Float b) { return b <= a; }
inline Float& operator+=(Float& a, Float b) { return a = a + b; }
inline Float& operator-=(Float& a, Float b) { return a = a - b; }
inline Float& operator*=(Float& a, Float b) { return a = a * b; }

inline Float round_up(Float a) { return -round_down(-a); }

// Not a number counts as the lower bound.
inline Float clamp(Float a, Float low, Float high) { return minimum(maximum(a, low), high); }

// 2^a to 2e-7, relatively, for a in [-126, 127]; smaller a, and NaN, give a number near 0.
// The polynomial is the minimax fit of 2^f with the value 1 at 0 on the interval of split(): its error is 8.2e-8 on
// [0, 1] and 9.2e-8 on [-0.5, 0.5], where its own rounding is smaller.
#if defined(__AVX512F__)
constexpr float kPowerOfTwo[] = {1.86713e-3f, 9.01703e-3f, 5.579991e-2f, 2.4016445e-1f, 6.9315131e-1f};
#else
constexpr float kPowerOfTwo[] = {1.326472707e-3f, 9.671512649e-3f, 5.550733744e-2f, 2.402224209e-1f, 6.931469776e-1f};
#endif
inline Float power_of_two(Float a) {
#if !defined(__AVX512F__)
  a = maximum(a, Float(-126.0f));
#endif
  const auto [whole, f] = split(a);
  Float p = fmadd(Float(kPowerOfTwo[0]), f, Float(kPowerOfTwo[1]));
  for (int i = 2; i < 5; ++i) p = fmadd(p, f, Float(kPowerOfTwo[i]));
  p = fmadd(p, f, Float(1.0f));
  return scale_by_power_of_two(p, whole);
}

// e^a to 2e-7, relatively; arguments beyond +-87 count as +-87; NaN is kept.
inline Float exponential(Float a) {
  const Float x = clamp(a, Float(-87.0f), Float(87.0f));
  const Float whole = round_nearest(x * Float(1.44269504f));
  // ln 2 in two parts, so that the rest is exact
  const Float f = fnmadd(whole, Float(-2.12194440e-4f), fnmadd(whole, Float(6.93359375e-1f), x));
  Float p = fmadd(Float(1.3888889e-3f), f, Float(8.3333333e-3f));
  p = fmadd(p, f, Float(4.1666667e-2f));
  p = fmadd(p, f, Float(1.6666667e-1f));
  p = fmadd(p, f, Float(0.5f));
  p = fmadd(p, f, Float(1.0f));
  p = fmadd(p, f, Float(1.0f));
  return select(a <= a, scale_by_power_of_two(p, whole), a);
}

// log2(a) to 1e-7 (absolutely, near 1), for a normal, finite and positive.
inline Float binary_logarithm(Float a) {
  const Float m = mantissa(a);
  const Mask high = m > Float(1.41421356f);
  const Float e = exponent(a) + select(high, Float(1.0f), Float(0.0f));
  const Float reduced = select(high, m * Float(0.5f), m);
  // log(m) = 2 artanh(s) with s = (m - 1) / (m + 1), |s| < 0.172
  const Float s = (reduced - Float(1.0f)) / (reduced + Float(1.0f));
  const Float s2 = s * s;
  Float p = fmadd(Float(2.0f / 9), s2, Float(2.0f / 7));
  p = fmadd(p, s2, Float(2.0f / 5));
  p = fmadd(p, s2, Float(2.0f / 3));
  p = fmadd(p, s2, Float(2.0f));
  return fmadd(p * s, Float(1.44269504f), e);
}

}  // namespace simd
