// SPDX-License-Identifier: Apache-2.0
// Interleaved rANS (Duda 2013; Giesen 2014): one 32-bit state a lane, refilled by 16-bit words from a stream that all lanes
// share. Token i of a block belongs to lane i mod `lanes`; within a step of one token a lane, words are in the lanes' order.
//
// Sixteen lanes at a time with AVX-512, whose expand puts each word into the lane that takes it; one at a time elsewhere.
// What differs between kinds of planes is a `Model` (planes.cpp): which row of the table a token is found in, and what
// follows from it, for one lane and for sixteen.
#pragma once

#include <cstdint>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define RANS_SIXTEEN 1
#include <immintrin.h>
#endif

constexpr int kProbabilityBits = 12;
constexpr uint32_t kLowBits = (1u << kProbabilityBits) - 1;
constexpr uint32_t kLowestState = 1u << 16;

// Mirrored in plane_coder/__init__.py.
struct Decoder {
  uint32_t* states;       // [lanes]
  const uint16_t* words;  // [word_count]
  // [histograms x 2^12] by histogram and a state's low bits: frequency - 1 << 20 | low bits - start << 8 | token.
  const uint32_t* table;
  int64_t lanes;
  int64_t word_count;
  int64_t next;  // the next word to read
};

// A token, and the state after it, which may need a word.
inline uint32_t advanced(uint32_t entry, uint32_t state) {
  return ((entry >> 20) + 1) * (state >> kProbabilityBits) + (entry >> 8 & kLowBits);
}

#if RANS_SIXTEEN
// As many whole sixteens of a step's lanes as there are; returns how many lanes. Sixteen words are read each time, so
// `word` must have as many before the end as the step has lanes.
template <class Model>
int64_t decode_sixteens(const Decoder& decoder, int64_t first, int64_t step, const uint16_t*& word, Model& model) {
  const __m512i low_bits = _mm512_set1_epi32(kLowBits);
  int64_t lane = 0;
  for (; lane + 16 <= step; lane += 16) {
    const __m512i state = _mm512_loadu_si512(decoder.states + lane);
    const __m512i place = _mm512_add_epi32(model.rows(first + lane, lane), _mm512_and_si512(state, low_bits));
    const __m512i entry = _mm512_i32gather_epi32(place, decoder.table, 4);
    const __m512i frequency = _mm512_add_epi32(_mm512_srli_epi32(entry, 20), _mm512_set1_epi32(1));
    const __m512i offset = _mm512_and_si512(_mm512_srli_epi32(entry, 8), low_bits);
    const __m512i next = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(state, kProbabilityBits)), offset);
    const __mmask16 is_low = _mm512_cmplt_epu32_mask(next, _mm512_set1_epi32(kLowestState));
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(word)));
    const __m512i refilled = _mm512_or_si512(_mm512_slli_epi32(next, 16), _mm512_maskz_expand_epi32(is_low, words));
    _mm512_storeu_si512(decoder.states + lane, _mm512_mask_mov_epi32(next, is_low, refilled));
    word += __builtin_popcount(is_low);
    model.accept(first + lane, lane, _mm512_cvtepi32_epi8(entry));
  }
  return lane;
}
#endif

// Decodes `count` tokens. False where the words run out, with the decoder in an undefined state.
template <class Model>
bool decode_tokens(Decoder& decoder, int64_t count, Model model) {
  uint32_t* const states = decoder.states;
  const uint32_t* const table = decoder.table;
  const uint16_t* word = decoder.words + decoder.next;
  const uint16_t* const end = decoder.words + decoder.word_count;

  const auto decode_one = [&](int64_t i, int64_t lane) {
    const uint32_t state = states[lane];
    const uint32_t entry = table[model.row(i, lane) + (state & kLowBits)];
    model.accept(i, lane, static_cast<uint8_t>(entry));
    return advanced(entry, state);
  };
  for (int64_t first = 0; first < count; first += decoder.lanes) {
    const int64_t step = count - first < decoder.lanes ? count - first : decoder.lanes;
    int64_t lane = 0;
    if (end - word > step) {
#if RANS_SIXTEEN
      lane = decode_sixteens(decoder, first, step, word, model);
#endif
      // Whether a lane is refilled cannot be predicted, so there is no branch: each lane reads the word, and some use it.
      for (; lane < step; ++lane) {
        const uint32_t state = decode_one(first + lane, lane);
        const uint32_t is_low = state < kLowestState;
        states[lane] = state << (16 * is_low) | (*word & (0 - is_low));
        word += is_low;
      }
    }
    for (; lane < step; ++lane) {
      uint32_t state = decode_one(first + lane, lane);
      if (state < kLowestState) {
        if (word == end) return false;
        state = state << 16 | *word++;
      }
      states[lane] = state;
    }
  }
  decoder.next = word - decoder.words;
  return true;
}

// Codes a block of `count` tokens before all that was coded so far. Words are written downwards, the last at words_end[-1],
// with room for one more; returns how many (at most `count`).
template <class Symbol>
int64_t encode_tokens(uint32_t* __restrict states, int64_t lanes, int64_t count, uint16_t* words_end, Symbol&& symbol) {
  uint16_t* word = words_end;
  for (int64_t first = (count - 1) / lanes * lanes; first >= 0; first -= lanes) {
    const int64_t step = count - first < lanes ? count - first : lanes;
    for (int64_t lane = step - 1; lane >= 0; --lane) {
      const uint32_t entry = symbol(first + lane);  // start << 16 | frequency
      const uint32_t frequency = entry & 0xFFFF, start = entry >> 16;
      const uint32_t is_full = states[lane] >> (32 - kProbabilityBits) >= frequency;
      word[-1] = static_cast<uint16_t>(states[lane]);  // without a branch: the next word overwrites it, unless it counts
      word -= is_full;
      const uint32_t state = states[lane] >> (16 * is_full);
      states[lane] = state + state / frequency * ((1u << kProbabilityBits) - frequency) + start;
    }
  }
  return words_end - word;
}
