// SPDX-License-Identifier: Apache-2.0
// Rows of spherical harmonics to planes and back, and plain bits to their values, in one pass over the memory.
#include <cstdint>
#include <cstring>

#include "export.h"

namespace {

constexpr int64_t kBlock = 64;       // rows turned at a time: 64 x 45 numbers stay in the first cache
constexpr int64_t kMostChannels = 64;

}  // namespace

// planes[channel x count + i] = rows[order[i] x channels + channel].
EXPORT void rows_to_planes(int64_t count, int64_t channels, const int16_t* rows, const int64_t* order, int16_t* planes) {
  int16_t tile[kMostChannels][kBlock];
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t size = count - first < kBlock ? count - first : kBlock;
    for (int64_t i = 0; i < size; ++i) {
      const int16_t* row = rows + order[first + i] * channels;
      for (int64_t channel = 0; channel < channels; ++channel) tile[channel][i] = row[channel];
    }
    for (int64_t channel = 0; channel < channels; ++channel)
      std::memcpy(planes + channel * count + first, tile[channel], size * sizeof(int16_t));
  }
}

// rows[order[i] x channels + channel] = planes[channel x plane_stride + i].
EXPORT void planes_to_rows(int64_t count, int64_t channels, const int16_t* planes, int64_t plane_stride, const int64_t* order,
                           int16_t* rows) {
  int16_t tile[kBlock][kMostChannels];
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t size = count - first < kBlock ? count - first : kBlock;
    for (int64_t channel = 0; channel < channels; ++channel) {
      const int16_t* plane = planes + channel * plane_stride + first;
      for (int64_t i = 0; i < size; ++i) tile[i][channel] = plane[i];
    }
    for (int64_t i = 0; i < size; ++i)
      std::memcpy(rows + order[first + i] * channels, tile[i], channels * sizeof(int16_t));
  }
}

// values[i] = -values[i] where the next of `signs` is 1, not 0; there is one for each value that is not 0, and one more.
EXPORT void apply_signs(int64_t count, const uint8_t* signs, int16_t* values) {
  for (int64_t i = 0; i < count; ++i) {  // zeros are too frequent to predict and too rare to skip: no branch
    const int is_set = values[i] != 0;
    const int is_negative = is_set & *signs;
    values[i] = static_cast<int16_t>((values[i] ^ -is_negative) + is_negative);
    signs += is_set;
  }
}

// Sets bit `bit` of those values whose width is above it to the next of `ones`; there is one for each of these, and one more.
EXPORT void take_bits(int64_t count, const int32_t* widths, int32_t bit, const uint8_t* ones, int32_t* values) {
  for (int64_t i = 0; i < count; ++i) {
    const int is_wide = widths[i] > bit;
    values[i] |= (is_wide & *ones) << bit;
    ones += is_wide;
  }
}

// The inverse: bit `bit` of those values, one to a byte, with room for one more; returns how many.
EXPORT int64_t give_bits(int64_t count, const int32_t* widths, int32_t bit, const int32_t* values, uint8_t* ones) {
  uint8_t* next = ones;
  for (int64_t i = 0; i < count; ++i) {
    *next = values[i] >> bit & 1;
    next += widths[i] > bit;
  }
  return next - ones;
}
