// SPDX-License-Identifier: Apache-2.0
#include "straight_through.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "adam_lanes.h"
#include "simd.h"
#include "thread_pool.h"

namespace rasterizer {
namespace {

using simd::Float;
using simd::kLanes;

constexpr int64_t kChunkFloats = 1 << 14;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargestHalf = 65504.0f;

inline Float to_half_and_back(Float a) {
  const Float limited = clamp(a, -kLargestHalf, kLargestHalf);
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm512_cvtps_ph(limited.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm256_cvtps_ph(limited.v, _MM_FROUND_TO_NEAREST_INT));
#else
  float lanes[kLanes];
  limited.store(lanes);
  for (float& lane : lanes) lane = static_cast<float>(static_cast<_Float16>(lane));
  return Float::load(lanes);
#endif
}

// The step on the lanes of one vector, with the group's constants spread over all of them.
class Step {
 public:
  Step(const StraightThroughGroup& group, const AdamConstants& k)
      : kind_(group.kind),
        adam_(group.adam, k),
        minimum_(group.minimum),
        step_(group.step),
        top_(group.top) {}

  // Reads and writes one vector of each array; `seen` may be null for kExact. The new parameters.
  Float operator()(float* parameter, const float* gradient, float* mean, float* variance, float* seen) const {
    const Float moved = adam_(parameter, Float::load(gradient), mean, variance);
    if (kind_ == kGrid) on_grid(moved).store(seen);
    if (kind_ == kHalf) to_half_and_back(moved).store(seen);
    return moved;
  }

 private:
  Float on_grid(Float value) const {
    const Float symbol = clamp(round_nearest((value - minimum_) / step_), 0.0f, top_);
    return rounded(symbol * step_) + minimum_;
  }

  const int32_t kind_;
  const AdamLanes adam_;
  const Float minimum_, step_, top_;
};

struct Bounds {
  Float low = kInfinity, high = -kInfinity;

  void include(Float values) {
    low = minimum(low, values);
    high = maximum(high, values);
  }
  ParameterRange range() const {
    float lows[kLanes], highs[kLanes];
    low.store(lows);
    high.store(highs);
    return {*std::min_element(lows, lows + kLanes), *std::max_element(highs, highs + kLanes)};
  }
};

ParameterRange step_chunk(const StraightThroughGroup& group, const AdamConstants& constants, int64_t begin, int64_t end) {
  const AdamGroup& g = group.adam;
  const Step step(group, constants);
  const auto seen_at = [&](int64_t i) { return group.kind == kExact ? nullptr : group.seen + i; };
  Bounds bounds;
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    bounds.include(step(g.parameter + i, g.gradient + i, g.mean + i, g.variance + i, seen_at(i)));
  }
  if (i < end) {
    using Tail = rasterizer::Tail<float, kLanes>;
    Tail parameter(g.parameter + i, end - i), gradient(const_cast<float*>(g.gradient) + i, end - i);
    Tail mean(g.mean + i, end - i), variance(g.variance + i, end - i), seen(seen_at(i), end - i);
    bounds.include(step(parameter.lanes(), gradient.lanes(), mean.lanes(), variance.lanes(), seen.lanes()));
    for (const Tail* tail : {&parameter, &mean, &variance, &seen}) tail->put_back();
  }
  return bounds.range();
}

}  // namespace

void straight_through_step(const StraightThroughGroup& group, const AdamConstants& constants, ParameterRange* range,
                           int threads) {
  const int64_t floats = group.adam.rows * group.adam.width;
  *range = {0.0f, 0.0f};
  if (floats == 0) return;
  const int64_t chunks = (floats + kChunkFloats - 1) / kChunkFloats;
  const std::unique_ptr<ParameterRange[]> ranges(new ParameterRange[chunks]);
  ThreadPool::run(threads, chunks, [&](int64_t chunk, int) {
    const int64_t begin = chunk * kChunkFloats;
    ranges[chunk] = step_chunk(group, constants, begin, std::min(floats, begin + kChunkFloats));
  });
  *range = ranges[0];
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    range->low = std::min(range->low, ranges[chunk].low);
    range->high = std::max(range->high, ranges[chunk].high);
  }
}

}  // namespace rasterizer
