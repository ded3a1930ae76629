// SPDX-License-Identifier: Apache-2.0
// Planes of tokens under contexts: the C interface that plane_coder/__init__.py calls. Arguments are checked there. `rows`
// are the places in the decoder's table where the contexts' histograms begin.
#include <cstdint>

#include "cpu_level.h"
#include "export.h"
#include "rans.h"

namespace {

constexpr int kEnergyBits = 9;
constexpr int kLargestSize = 2047;
constexpr int kLargestEnergy = 15;

// The least value of a token, at most kLargestSize: 0 to 231 stand for themselves, 232 + j for values from 231 + 2^j.
struct Sizes {
  int32_t of[256];
  constexpr Sizes() : of() {
    for (int token = 0; token < 256; ++token) {
      const int64_t least = token < 232 ? token : 231 + (int64_t{1} << (token - 232));
      of[token] = least < kLargestSize ? static_cast<int32_t>(least) : kLargestSize;
    }
  }
};
constexpr Sizes kSizes;

// Known contexts.
struct Plain {
  const uint32_t* of_context;
  const int32_t* contexts;
  uint8_t* tokens;

  uint32_t row(int64_t i, int64_t) const { return of_context[contexts[i]]; }
  void accept(int64_t i, int64_t, uint8_t token) const { tokens[i] = token; }
#if RANS_SIXTEEN
  __m512i rows(int64_t i, int64_t) const {
    return _mm512_i32gather_epi32(_mm512_loadu_si512(contexts + i), of_context, 4);
  }
  void accept(int64_t i, int64_t, __m128i found) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(tokens + i), found);
  }
#endif
};

// The moving average of each lane's values, times 16, and its bin.
struct Averages {
  const int32_t* bins;  // [last + 1]
  int32_t last;
  int32_t* of_lane;

  int32_t bin(int64_t lane) const {
    const int32_t value = of_lane[lane] >> 4;
    return bins[value < last ? value : last];
  }
  void move(int64_t lane, uint8_t token, int32_t shift) const {
    of_lane[lane] += ((kSizes.of[token] << (shift + 4)) - of_lane[lane]) >> 2;
  }
};

// A context, and the bin of the lane's average.
struct Neighbour {
  const uint32_t* of_context;
  const int32_t* contexts;
  const int32_t* shifts;
  int32_t bin_count;
  Averages averages;
  uint8_t* tokens;

  uint32_t row(int64_t i, int64_t lane) const { return of_context[contexts[i] * bin_count + averages.bin(lane)]; }
  void accept(int64_t i, int64_t lane, uint8_t token) const {
    averages.move(lane, token, shifts[i]);
    tokens[i] = token;
  }
#if RANS_SIXTEEN
  __m512i rows(int64_t i, int64_t lane) const {
    const __m512i average = _mm512_loadu_si512(averages.of_lane + lane);
    const __m512i value = _mm512_min_epi32(_mm512_srai_epi32(average, 4), _mm512_set1_epi32(averages.last));
    const __m512i bin = _mm512_i32gather_epi32(value, averages.bins, 4);
    const __m512i known = _mm512_mullo_epi32(_mm512_loadu_si512(contexts + i), _mm512_set1_epi32(bin_count));
    return _mm512_i32gather_epi32(_mm512_add_epi32(known, bin), of_context, 4);
  }
  void accept(int64_t i, int64_t lane, __m128i found) const {
    const __m512i size = _mm512_i32gather_epi32(_mm512_cvtepu8_epi32(found), kSizes.of, 4);
    const __m512i shift = _mm512_add_epi32(_mm512_loadu_si512(shifts + i), _mm512_set1_epi32(4));
    const __m512i average = _mm512_loadu_si512(averages.of_lane + lane);
    const __m512i difference = _mm512_sub_epi32(_mm512_sllv_epi32(size, shift), average);
    _mm512_storeu_si512(averages.of_lane + lane, _mm512_add_epi32(average, _mm512_srai_epi32(difference, 2)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(tokens + i), found);
  }
#endif
};

// A key, whose low bits are the energy of the magnitudes so far, after one more magnitude.
int16_t key_after(int16_t key, uint8_t token) {
  const int energy = key & ((1 << kEnergyBits) - 1);
  return static_cast<int16_t>(key - (energy >> 3) + 4 * (token < kLargestEnergy ? token : kLargestEnergy));
}

// A key for each row, to which the tokens' energy is added.
struct Energy {
  const uint32_t* of_key;
  int16_t* keys;
  uint8_t* tokens;

  uint32_t row(int64_t i, int64_t) const { return of_key[keys[i]]; }
  void accept(int64_t i, int64_t, uint8_t token) const {
    keys[i] = key_after(keys[i], token);
    tokens[i] = token;
  }
#if RANS_SIXTEEN
  __m512i rows(int64_t i, int64_t) const {
    const __m256i key = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + i));
    return _mm512_i32gather_epi32(_mm512_cvtepi16_epi32(key), of_key, 4);
  }
  void accept(int64_t i, int64_t, __m128i found) const {
    __m256i* place = reinterpret_cast<__m256i*>(keys + i);
    const __m256i key = _mm256_loadu_si256(place);
    const __m256i energy = _mm256_and_si256(key, _mm256_set1_epi16((1 << kEnergyBits) - 1));
    const __m256i kept = _mm256_sub_epi16(key, _mm256_srli_epi16(energy, 3));
    const __m256i added = _mm256_cvtepu8_epi16(_mm_min_epu8(found, _mm_set1_epi8(kLargestEnergy)));
    _mm256_storeu_si256(place, _mm256_add_epi16(kept, _mm256_slli_epi16(added, 2)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(tokens + i), found);
  }
#endif
};

}  // namespace

// Tokens under known contexts. False (0) if the words run out, as in the functions below.
EXPORT int decode_plane(Decoder* decoder, int64_t count, const uint32_t* rows, const int32_t* contexts, uint8_t* tokens) {
  return decode_tokens(*decoder, count, Plain{rows, contexts, tokens});
}

// As decode_plane, under contexts[i] x bin_count + the bin of the lane's average; updates averages[lanes].
EXPORT int decode_neighbour_plane(Decoder* decoder, int64_t count, const uint32_t* rows, const int32_t* contexts,
                                  const int32_t* shifts, const int32_t* bins, int32_t last_bin, int32_t bin_count,
                                  int32_t* averages, uint8_t* tokens) {
  const Averages known{bins, last_bin, averages};
  return decode_tokens(*decoder, count, Neighbour{rows, contexts, shifts, bin_count, known, tokens});
}

// As decode_plane, under the rows' keys, to which the tokens' energy is added.
EXPORT int decode_energy_plane(Decoder* decoder, int64_t count, const uint32_t* rows, int16_t* keys, uint8_t* tokens) {
  return decode_tokens(*decoder, count, Energy{rows, keys, tokens});
}

// Codes a block before those coded so far; symbols[histogram x 256 + token] = start << 16 | frequency. Returns the number
// of words, which end at words[count + 1].
EXPORT int64_t encode_plane(uint32_t* states, int64_t lanes, int64_t count, const uint32_t* symbols,
                            const uint8_t* histograms, const uint16_t* contexts, const uint8_t* tokens, uint16_t* words) {
  return encode_tokens(states, lanes, count, words + count + 1, [=](int64_t i) {
    return symbols[static_cast<uint32_t>(histograms[contexts[i]]) << 8 | tokens[i]];
  });
}

// The bin of every value's predecessors, as decode_neighbour_plane finds them.
EXPORT void neighbour_bins(int64_t count, int64_t lanes, const uint8_t* tokens, const int32_t* shifts, const int32_t* bins,
                           int32_t last_bin, int32_t* averages, uint8_t* found) {
  const Averages known{bins, last_bin, averages};
  for (int64_t first = 0; first < count; first += lanes) {
    const int64_t step = count - first < lanes ? count - first : lanes;
    for (int64_t lane = 0; lane < step; ++lane) {
      found[first + lane] = static_cast<uint8_t>(known.bin(lane));
      known.move(lane, tokens[first + lane], shifts[first + lane]);
    }
  }
}

// The keys after these tokens.
EXPORT void add_energy(int64_t count, const uint8_t* tokens, int16_t* keys) {
  for (int64_t i = 0; i < count; ++i) keys[i] = key_after(keys[i], tokens[i]);
}
