// SPDX-License-Identifier: Apache-2.0
// What the fused optimiser steps share: Adam on the lanes of one vector, exact rounding, the last rows of an array.
#pragma once

#include <algorithm>

#include "adam.h"
#include "simd.h"

namespace rasterizer {

// The value as it is rounded to float here. The file formats define decoded values by products and sums, each rounded;
// this keeps the compiler from making one fused multiply-add of them.
inline simd::Float rounded(simd::Float a) {
#if defined(__x86_64__)
  asm("" : "+x"(a.v));
#elif defined(__aarch64__)
  asm("" : "+w"(a.v));
#else
  asm("" : "+m"(a.v));
#endif
  return a;
}

class AdamLanes {
 public:
  AdamLanes(const AdamGroup& group, const AdamConstants& k)
      : fresh_mean_(static_cast<float>(1.0 - k.beta_mean)),
        beta_variance_(static_cast<float>(k.beta_variance)),
        fresh_variance_(static_cast<float>(1.0 - k.beta_variance)),
        epsilon_(static_cast<float>(k.epsilon)),
        step_size_(group.step_size),
        correction_(group.variance_correction) {}

  // Reads and writes one vector of each array; the new parameters.
  simd::Float operator()(float* parameter, simd::Float gradient, float* mean, float* variance) const {
    using simd::Float;
    const Float old_mean = Float::load(mean);
    const Float m = fmadd(fresh_mean_, gradient - old_mean, old_mean);
    const Float v = fmadd(fresh_variance_ * gradient, gradient, beta_variance_ * Float::load(variance));
    m.store(mean);
    v.store(variance);
    const Float moved = Float::load(parameter) - step_size_ * m / fmadd(square_root(v), correction_, epsilon_);
    moved.store(parameter);
    return moved;
  }

 private:
  const simd::Float fresh_mean_, beta_variance_, fresh_variance_, epsilon_, step_size_, correction_;
};

// The last elements of an array, fewer than kernels work on at once, copied to separate memory and back.
template <class Element, int kCapacity>
class Tail {
 public:
  // Lanes beyond the end repeat the first one, so that they neither trap nor widen bounds. `begin` may be null.
  Tail(Element* begin, int64_t count) : begin_(begin), count_(begin == nullptr ? 0 : count) {
    std::copy_n(begin_, count_, lanes_);
    std::fill(lanes_ + count_, lanes_ + kCapacity, count_ > 0 ? lanes_[0] : Element(0));
  }
  Element* lanes() { return begin_ == nullptr ? nullptr : lanes_; }
  void put_back() const { std::copy_n(lanes_, count_, begin_); }

 private:
  Element* begin_;
  int64_t count_;
  Element lanes_[kCapacity];
};

}  // namespace rasterizer
