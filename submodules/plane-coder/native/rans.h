// SPDX-License-Identifier: Apache-2.0
// Interleaved rANS (Duda 2013; Giesen 2014): one 32-bit state a lane, refilled by 16-bit words from a stream that all lanes
// share. Token i of a block belongs to lane i mod `lanes`; within a step of one token a lane, words are in the lanes' order.
//
// Why it is scalar: a step's lanes do not depend on each other but for the place of the next word, an addition, so that
// several tokens are in flight at once in any processor; gathers are no faster than the loads that they stand for.
#pragma once

#include <cstdint>

constexpr int kProbabilityBits = 12;
constexpr uint32_t kLowestState = 1u << 16;

// What the NumPy side lays out as a structure (plane_coder/__init__.py).
struct Decoder {
  uint32_t* states;       // [lanes]
  const uint16_t* words;  // [word_count]
  // [histograms x 2^12] by histogram and a state's low bits: frequency - 1 << 20 | low bits - start << 8 | token.
  const uint32_t* table;
  int64_t lanes;
  int64_t word_count;
  int64_t next;  // the next word to read
};

// Decodes `count` tokens. histogram(i, lane) is the histogram of token i; accept(i, lane, token) is told the token.
// False where the words run out, with the decoder in an undefined state.
template <class Histogram, class Accept>
bool decode_tokens(Decoder& decoder, int64_t count, Histogram&& histogram, Accept&& accept) {
  uint32_t* __restrict states = decoder.states;
  const uint32_t* table = decoder.table;
  const uint16_t* word = decoder.words + decoder.next;
  const uint16_t* const end = decoder.words + decoder.word_count;

  // One token of one lane: the state behind it, which may ask for a word. Its own is in `*word` then.
  const auto advance = [&](int64_t i, int64_t lane) {
    const uint32_t state = states[lane];
    const uint32_t row = static_cast<uint32_t>(histogram(i, lane)) << kProbabilityBits;
    const uint32_t entry = table[row | (state & ((1u << kProbabilityBits) - 1))];
    accept(i, lane, static_cast<uint8_t>(entry));
    return ((entry >> 20) + 1) * (state >> kProbabilityBits) + ((entry >> 8) & 0xFFF);
  };
  for (int64_t first = 0; first < count; first += decoder.lanes) {
    const int64_t step = count - first < decoder.lanes ? count - first : decoder.lanes;
    if (end - word > step) {
      // Whether a lane is refilled cannot be foreseen, so there is no branch: each looks at the word, and some take it.
      for (int64_t lane = 0; lane < step; ++lane) {
        const uint32_t state = advance(first + lane, lane);
        const uint32_t is_low = state < kLowestState;
        states[lane] = state << (16 * is_low) | (*word & (0 - is_low));
        word += is_low;
      }
      continue;
    }
    for (int64_t lane = 0; lane < step; ++lane) {
      uint32_t state = advance(first + lane, lane);
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
// with one place to spare; returns how many (at most `count`).
template <class Symbol>
int64_t encode_tokens(uint32_t* __restrict states, int64_t lanes, int64_t count, uint16_t* words_end, Symbol&& symbol) {
  uint16_t* word = words_end;
  for (int64_t first = (count - 1) / lanes * lanes; first >= 0; first -= lanes) {
    const int64_t step = count - first < lanes ? count - first : lanes;
    for (int64_t lane = step - 1; lane >= 0; --lane) {
      const uint32_t entry = symbol(first + lane);  // start << 16 | frequency
      const uint32_t frequency = entry & 0xFFFF, start = entry >> 16;
      const uint32_t is_full = states[lane] >> (32 - kProbabilityBits) >= frequency;
      word[-1] = static_cast<uint16_t>(states[lane]);  // without a branch: the next is written over it, unless it counts
      word -= is_full;
      const uint32_t state = states[lane] >> (16 * is_full);
      states[lane] = state + state / frequency * ((1u << kProbabilityBits) - frequency) + start;
    }
  }
  return words_end - word;
}
