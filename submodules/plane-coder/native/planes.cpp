// SPDX-License-Identifier: Apache-2.0
// Planes of tokens under contexts: the C interface that plane_coder/__init__.py calls. Arguments are checked there.
#include <cstdint>

#include "cpu_level.h"
#include "rans.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kEnergyBits = 9;
constexpr int kLargestSize = 2047;

// The least value of a token, at most kLargestSize: 0 to 231 stand for themselves, 232 + j for 232 + 2^j - 1 on.
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

// The moving average of a lane's values, 16-fold, as a bin of it.
struct Bins {
  const uint8_t* bins;  // [last + 1]
  int32_t last;
  uint8_t of(int32_t average) const {
    const int32_t value = average >> 4;
    return bins[value < last ? value : last];
  }
};

int32_t moved(int32_t average, uint8_t token, int32_t shift) {
  return average + (((kSizes.of[token] << (shift + 4)) - average) >> 2);
}

// The energy of the magnitudes before, in a key's low bits, after one more.
int16_t key_after(int16_t key, uint8_t token) {
  const int energy = key & ((1 << kEnergyBits) - 1);
  return static_cast<int16_t>(key - (energy >> 3) + 4 * (token < 15 ? token : 15));
}

}  // namespace

// Tokens under known contexts; histograms[context]. False (0) where the words run out: so in all that follow.
EXPORT int decode_plane(Decoder* decoder, int64_t count, const uint8_t* histograms, const int32_t* contexts,
                        uint8_t* tokens) {
  return decode_tokens(
      *decoder, count, [=](int64_t i, int64_t) { return histograms[contexts[i]]; },
      [=](int64_t i, int64_t, uint8_t token) { tokens[i] = token; });
}

// As decode_plane, under contexts[i] x bin_count + the bin of the lane's average; averages[lanes] are moved on.
EXPORT int decode_neighbour_plane(Decoder* decoder, int64_t count, const uint8_t* histograms, const int32_t* contexts,
                                  const int32_t* shifts, const uint8_t* bins, int32_t last_bin, int32_t bin_count,
                                  int32_t* averages, uint8_t* tokens) {
  const Bins table{bins, last_bin};
  return decode_tokens(
      *decoder, count,
      [=](int64_t i, int64_t lane) { return histograms[contexts[i] * bin_count + table.of(averages[lane])]; },
      [=](int64_t i, int64_t lane, uint8_t token) {
        averages[lane] = moved(averages[lane], token, shifts[i]);
        tokens[i] = token;
      });
}

// As decode_plane, under histogram_of_key[keys[i]]; the keys take up the token's energy.
EXPORT int decode_energy_plane(Decoder* decoder, int64_t count, const uint8_t* histogram_of_key, int16_t* keys,
                               uint8_t* tokens) {
  return decode_tokens(
      *decoder, count, [=](int64_t i, int64_t) { return histogram_of_key[keys[i]]; },
      [=](int64_t i, int64_t, uint8_t token) {
        keys[i] = key_after(keys[i], token);
        tokens[i] = token;
      });
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
EXPORT void neighbour_bins(int64_t count, int64_t lanes, const uint8_t* tokens, const int32_t* shifts, const uint8_t* bins,
                           int32_t last_bin, int32_t* averages, uint8_t* found) {
  const Bins table{bins, last_bin};
  for (int64_t first = 0; first < count; first += lanes) {
    const int64_t step = count - first < lanes ? count - first : lanes;
    for (int64_t lane = 0; lane < step; ++lane) {
      found[first + lane] = table.of(averages[lane]);
      averages[lane] = moved(averages[lane], tokens[first + lane], shifts[first + lane]);
    }
  }
}

// The keys after these tokens.
EXPORT void add_energy(int64_t count, const uint8_t* tokens, int16_t* keys) {
  for (int64_t i = 0; i < count; ++i) keys[i] = key_after(keys[i], tokens[i]);
}
