// SPDX-License-Identifier: Apache-2.0
// Rows are processed kLanes at a time, which fill whole vectors at any width. Values of a row are spread over lanes; steps
// that mix a row's numbers use planes (one vector for each column). Both are in scratch memory of a group's size.
//
// `seen` has the values of the decoder bit by bit: products and sums are rounded one by one where the format rounds them,
// and `+ 0.0f` turns -0 into 0, because integers have no -0.
#include "grid_step.h"

#include <algorithm>
#include <cmath>

#include "adam_lanes.h"
#include "simd.h"
#include "thread_pool.h"

namespace rasterizer {
namespace {

using simd::Float;
using simd::kLanes;

constexpr int kRows = kLanes;  // of a group
constexpr int64_t kChunkRows = 256;
constexpr float kGreatestSymbol = 32767.0f;     // of SH and colour
constexpr float kExactBelow = 16777216.0f;      // sums of integers, in float
constexpr float kShortestQuaternion = 1e-12f;

template <int kWidth>
void adam_rows(const AdamLanes& adam, const AdamGroup& g, int64_t row) {
  for (int i = 0; i < kWidth; ++i) {
    const int64_t at = row * kWidth + i * kLanes;
    adam(g.parameter + at, Float::load(g.gradient + at), g.mean + at, g.variance + at);
  }
}

// kWidth columns of the rows of a group.
template <int kWidth>
struct Planes {
  float lanes[kWidth][kLanes];

  Planes() = default;
  explicit Planes(const float* rows) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int c = 0; c < kWidth; ++c) lanes[c][lane] = rows[lane * kWidth + c];
    }
  }
  void to_rows(float* rows) const {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int c = 0; c < kWidth; ++c) rows[lane * kWidth + c] = lanes[c][lane];
    }
  }
  Float operator[](int c) const { return Float::load(lanes[c]); }
  void set(int c, Float value) { value.store(lanes[c]); }
};

Float spread(const float (&by_class)[kClasses], const uint8_t* classes) {
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = by_class[classes[lane]];
  return Float::load(lanes);
}

// 2 ^ (the rule's result).
Float sizes(const LinearRule& rule, const uint8_t* classes, const int32_t (&scale)[3][kLanes]) {
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    int64_t total = rule.bias + rule.factors[0] * classes[lane];
    for (int axis = 0; axis < 3; ++axis) total += rule.factors[axis + 1] * scale[axis][lane];
    const int64_t shift = std::min(std::max<int64_t>(total >> 16, 0), rule.most);
    lanes[lane] = static_cast<float>(1 << shift);
  }
  return Float::load(lanes);
}

Float symbols_on(const EvenGrid& grid, Float value) {
  return clamp(round_nearest((value - grid.minimum) / grid.step), 0.0f, grid.top);
}

Float values_on(const EvenGrid& grid, Float symbols) { return rounded(symbols * grid.step) + grid.minimum; }

// Everything but the higher SH.
class SmallAttributes {
 public:
  SmallAttributes(const GridModel& model, const GridConstants& grids, const AdamConstants& k)
      : grids_(grids),
        xyz_(model.xyz.adam, k),
        dc_(model.dc.adam, k),
        opacity_(model.opacity.adam, k),
        scaling_(model.scaling.adam, k),
        rotation_(model.rotation.adam, k) {}

  // The step of kRows rows from `row` on.
  void operator()(const GridModel& model, int64_t row) const {
    adam_rows<3>(xyz_, model.xyz.adam, row);
    adam_rows<3>(dc_, model.dc.adam, row);
    adam_rows<1>(opacity_, model.opacity.adam, row);
    adam_rows<3>(scaling_, model.scaling.adam, row);
    adam_rows<4>(rotation_, model.rotation.adam, row);

    const Float opacity = Float::load(model.opacity.adam.parameter + row);
    values_on(grids_.opacity, symbols_on(grids_.opacity, opacity)).store(model.opacity.seen + row);
    int32_t scale[3][kLanes];
    see_scales(model.scaling, row, scale);
    see_centres(model, row, scale);
    see_rotations(model, row, scale);
    see_colours(model, row);
  }

 private:
  // Axes that would change places become equal instead: symbols are in descending order.
  void see_scales(const GridAttribute& scaling, int64_t row, int32_t (&symbols)[3][kLanes]) const {
    Planes<3> planes(scaling.adam.parameter + 3 * row);
    Float least = grids_.scale.top;
    for (int axis = 0; axis < 3; ++axis) {
      least = minimum(symbols_on(grids_.scale, planes[axis]), least);
      store_integers(symbols[axis], least);
      planes.set(axis, values_on(grids_.scale, least));
    }
    planes.to_rows(scaling.seen + 3 * row);
  }

  void see_centres(const GridModel& model, int64_t row, const int32_t (&scale)[3][kLanes]) const {
    const float* centres = model.xyz.adam.parameter + 3 * row;
    float* seen = model.xyz.seen + 3 * row;
    Planes<3> planes(centres);
    const Float size = sizes(grids_.position_shift, model.classes + row, scale);
    const Float half = round_down(size * 0.5f);
    for (int axis = 0; axis < 3; ++axis) {
      const Float scaled = (planes[axis] - grids_.origin[axis]) / grids_.cell;
      const Float cell = round_down(clamp(scaled, 0.0f, grids_.top_cell));
      const Float middle = round_down(cell / size) * size + half;
      planes.set(axis, rounded(middle * grids_.cell) + grids_.origin[axis]);
    }
    planes.to_rows(seen);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (model.far[row + lane]) std::copy_n(centres + 3 * lane, 3, seen + 3 * lane);
    }
  }

  void see_rotations(const GridModel& model, int64_t row, const int32_t (&scale)[3][kLanes]) const {
    Planes<4> planes(model.rotation.adam.parameter + 4 * row);
    const Float turns = sizes(grids_.rotation_shift, model.classes + row, scale) * grids_.rotation_step;
    const Float length = maximum(square_root(square(planes[0]) + square(planes[1]) + square(planes[2]) + square(planes[3])),
                                 kShortestQuaternion);
    const simd::Mask negative = planes[0] / length < Float(0.0f);
    Float squares[3];
    for (int axis = 0; axis < 3; ++axis) {
      const Float unit = planes[axis + 1] / length;
      const Float symbol = round_nearest(select(negative, -unit, unit) / turns) + 0.0f;
      // The size in `turns` is a power of two: the place of its multiplication makes no difference.
      const Float value = rounded(symbol * turns);
      planes.set(axis + 1, value);
      squares[axis] = square(value);
    }
    planes.set(0, square_root(maximum(Float(1.0f) - (squares[0] + squares[1] + squares[2]), 0.0f)));
    planes.to_rows(model.rotation.seen + 4 * row);
  }

  void see_colours(const GridModel& model, int64_t row) const {
    Planes<3> planes(model.dc.adam.parameter + 3 * row), steps;
    const Float size = spread(grids_.dc_size, model.classes + row);
    for (int c = 0; c < 3; ++c) {
      const float* m = grids_.dc_forward + c;
      const Float sum = rounded(planes[0] * m[0]) + rounded(planes[1] * m[3]) + rounded(planes[2] * m[6]);
      const Float symbol = round_nearest((sum / grids_.dc_unit - grids_.dc_low[c]) / size);
      steps.set(c, clamp(symbol, 0.0f, kGreatestSymbol) * size + grids_.dc_low[c]);  // whole numbers: exact
    }
    for (int c = 0; c < 3; ++c) {
      const float* m = grids_.dc_inverse + c;
      for (int lane = 0; lane < kLanes; ++lane) {  // whole numbers again, and exact in double
        double sum = 0.0;
        for (int k = 0; k < 3; ++k) sum += static_cast<double>(steps.lanes[k][lane]) * static_cast<double>(m[3 * k]);
        planes.lanes[c][lane] = static_cast<float>(sum);
      }
      planes.set(c, planes[c] * grids_.dc_step);
    }
    planes.to_rows(model.dc.seen + 3 * row);
  }

  static Float square(Float a) { return rounded(a * a); }

  const GridConstants& grids_;
  const AdamLanes xyz_, dc_, opacity_, scaling_, rotation_;
};

// Rows of SH times a matrix of their width.
template <int kChannels>
class Rows {
 public:
  static constexpr int kVectors = (kChannels + kLanes - 1) / kLanes;
  static constexpr int kPadded = kVectors * kLanes;
  static constexpr int kFloats = kRows * kChannels;
  // Rows are stored in whole vectors, in order: each overwrites the surplus of the one before.
  static constexpr int kScratch = kFloats + kLanes;

  // out = rows (kRows, kChannels) x matrix (kChannels, kPadded) x factor(row).
  template <class Factor>
  static void multiply(const float* rows, const float* matrix, float* out, Factor&& factor) {
    for (int first = 0; first < kRows; first += kTile) {
      Float sums[kTile][kVectors];
      for (int r = 0; r < kTile; ++r) {
        for (int v = 0; v < kVectors; ++v) sums[r][v] = 0.0f;
      }
      for (int k = 0; k < kChannels; ++k) {
        for (int v = 0; v < kVectors; ++v) {
          const Float entries = Float::load(matrix + k * kPadded + v * kLanes);
          for (int r = 0; r < kTile; ++r) sums[r][v] = fmadd(rows[(first + r) * kChannels + k], entries, sums[r][v]);
        }
      }
      for (int r = 0; r < kTile; ++r) {
        const Float all(factor(first + r));
        for (int v = 0; v < kVectors; ++v) (sums[r][v] * all).store(out + (first + r) * kChannels + v * kLanes);
      }
    }
  }

 private:
  // Rows multiplied at once: as many as fit their sums into a dozen registers.
  static constexpr int kTile = kVectors > 6 ? 1 : kVectors > 3 ? 2 : 4;
};

// Gradients for values to gradients for coordinates.
template <int kChannels>
class PullBack {
 public:
  explicit PullBack(const GridConstants& grids) {
    for (int column = 0; column < kChannels; ++column) {
      for (int row = 0; row < kChannels; ++row) {
        back_[column * Rows::kPadded + row] = grids.sh_matrix[row * kChannels + column] / grids.sh_unit;
      }
    }
  }

  void operator()(float* gradients, int64_t rows) const {
    float pulled[Rows::kScratch];
    int64_t row = 0;
    for (; row + kRows <= rows; row += kRows, gradients += Rows::kFloats) {
      Rows::multiply(gradients, back_, pulled, [](int) { return 1.0f; });
      std::copy_n(pulled, Rows::kFloats, gradients);
    }
    if (row == rows) return;
    Tail<float, Rows::kFloats> last(gradients, (rows - row) * kChannels);
    Rows::multiply(last.lanes(), back_, pulled, [](int) { return 1.0f; });
    std::copy_n(pulled, (rows - row) * kChannels, gradients);
  }

 private:
  using Rows = rasterizer::Rows<kChannels>;
  float back_[kChannels * Rows::kPadded] = {};
};

template <int kChannels>
void pull_back_all(float* gradients, int64_t rows, const GridConstants& grids, int threads) {
  const PullBack<kChannels> work(grids);
  ThreadPool::run(threads, (rows + kChunkRows - 1) / kChunkRows, [&](int64_t chunk, int) {
    work(gradients + chunk * kChunkRows * kChannels, std::min(kChunkRows, rows - chunk * kChunkRows));
  });
}

// The higher SH: Adam, symbols, and values through the matrix.
template <int kChannels>
class Harmonics {
 public:
  Harmonics(const GridModel& model, const GridConstants& grids, const AdamConstants& k)
      : grids_(grids), adam_(model.rest.adam, k), rounding_(grids.sh_rounding) {
    for (int column = 0; column < kChannels; ++column) {
      float sum = 0.0f;
      for (int row = 0; row < kChannels; ++row) {
        const float entry = grids.sh_matrix[row * kChannels + column];
        forth_[row * Rows::kPadded + column] = entry;
        sum += std::fabs(entry);
      }
      greatest_sum_ = std::max(greatest_sum_, sum);
    }
  }

  // The step of kRows rows from `row` on.
  void operator()(const GridModel& model, int64_t row) const {
    const AdamGroup& g = model.rest.adam;
    const uint8_t* classes = model.classes + row;
    const int64_t at = row * kChannels;
    float steps_per_unit[Rows::kScratch], symbols[Rows::kScratch];
    for (int r = 0; r < kRows; ++r) {
      const Float all(grids_.sh_steps_per_unit[classes[r]]);
      for (int v = 0; v < Rows::kVectors; ++v) all.store(steps_per_unit + r * kChannels + v * kLanes);
    }
    Float greatest = 0.0f;
    for (int i = 0; i < Rows::kFloats; i += kLanes) {
      const Float found = stepped(g, at + i, Float::load(steps_per_unit + i));
      found.store(symbols + i);
      greatest = maximum(greatest, maximum(found, -found));
    }
    see(symbols, greatest, classes, model.rest.seen + at);
  }

 private:
  using Rows = rasterizer::Rows<kChannels>;

  // Adam on one vector; its new symbols.
  Float stepped(const AdamGroup& g, int64_t at, Float steps_per_unit) const {
    const Float gradient = Float::load(g.gradient + at);
    const Float scaled = rounded(adam_(g.parameter + at, gradient, g.mean + at, g.variance + at) * steps_per_unit);
    const Float magnitude = round_down(maximum(scaled, -scaled) + rounding_);
    const Float symbols = minimum(magnitude, kGreatestSymbol);
    return select(scaled < Float(0.0f), -symbols, symbols);
  }

  // The values of symbols, exact up to the two roundings of the decoder.
  void see(const float* symbols, Float greatest, const uint8_t* classes, float* seen) const {
    const auto step_of = [&](int r) { return grids_.sh_step[classes[r]]; };
    float lanes[kLanes];
    greatest.store(lanes);
    if (*std::max_element(lanes, lanes + kLanes) * greatest_sum_ < kExactBelow) {
      float values[Rows::kScratch];
      Rows::multiply(symbols, forth_, values, step_of);
      for (int i = 0; i < Rows::kFloats; i += kLanes) Float::load(values + i).store(seen + i);
      return;
    }
    for (int r = 0; r < kRows; ++r) {
      double sums[kChannels] = {};
      for (int k = 0; k < kChannels; ++k) {
        const double symbol = symbols[r * kChannels + k];
        for (int c = 0; c < kChannels; ++c) sums[c] += symbol * static_cast<double>(forth_[k * Rows::kPadded + c]);
      }
      for (int c = 0; c < kChannels; ++c) seen[r * kChannels + c] = static_cast<float>(sums[c]) * step_of(r);
    }
  }

  const GridConstants& grids_;
  const AdamLanes adam_;
  const Float rounding_;
  float forth_[kChannels * Rows::kPadded] = {};
  float greatest_sum_ = 0.0f;  // of a column's magnitudes
};

template <>
class Harmonics<0> {
 public:
  Harmonics(const GridModel&, const GridConstants&, const AdamConstants&) {}
  void operator()(const GridModel&, int64_t) const {}
};

// One attribute of the last rows, fewer than a group has.
template <int kWidth>
class LastRows {
 public:
  LastRows(const GridAttribute& a, int64_t row, int64_t rows)
      : attribute_(a),
        parameter_(a.adam.parameter + row * kWidth, rows * kWidth),
        gradient_(const_cast<float*>(a.adam.gradient) + row * kWidth, rows * kWidth),
        mean_(a.adam.mean + row * kWidth, rows * kWidth),
        variance_(a.adam.variance + row * kWidth, rows * kWidth),
        seen_(a.seen + row * kWidth, rows * kWidth) {}

  GridAttribute padded() {
    GridAttribute a = attribute_;
    a.adam.parameter = parameter_.lanes();
    a.adam.gradient = gradient_.lanes();
    a.adam.mean = mean_.lanes();
    a.adam.variance = variance_.lanes();
    a.seen = seen_.lanes();
    return a;
  }
  void put_back() const {
    for (const auto* tail : {&parameter_, &mean_, &variance_, &seen_}) tail->put_back();
  }

 private:
  const GridAttribute& attribute_;
  Tail<float, std::max(1, kRows * kWidth)> parameter_, gradient_, mean_, variance_, seen_;
};

template <int kChannels>
class Step {
 public:
  Step(const GridModel& model, const GridConstants& grids, const AdamConstants& k)
      : model_(model), small_(model, grids, k), harmonics_(model, grids, k) {}

  void operator()(int64_t begin, int64_t end) const {
    const int64_t whole = begin + (end - begin) / kRows * kRows;
    // One after the other: the processor prefetches fewer arrays at a time better.
    for (int64_t row = begin; row < whole; row += kRows) harmonics_(model_, row);
    for (int64_t row = begin; row < whole; row += kRows) small_(model_, row);
    if (whole < end) last_rows(whole, end - whole);
  }

 private:
  void last_rows(int64_t row, int64_t rows) const {
    LastRows<3> xyz(model_.xyz, row, rows), dc(model_.dc, row, rows), scaling(model_.scaling, row, rows);
    LastRows<kChannels> rest(model_.rest, row, rows);
    LastRows<1> opacity(model_.opacity, row, rows);
    LastRows<4> rotation(model_.rotation, row, rows);
    Tail<uint8_t, kRows> classes(const_cast<uint8_t*>(model_.classes) + row, rows);
    Tail<uint8_t, kRows> far(const_cast<uint8_t*>(model_.far) + row, rows);
    const GridModel padded = {rows,           xyz.padded(),      dc.padded(),     rest.padded(), opacity.padded(),
                              scaling.padded(), rotation.padded(), classes.lanes(), far.lanes()};
    harmonics_(padded, 0);
    small_(padded, 0);
    for (const auto* a : {&xyz, &dc, &scaling}) a->put_back();
    rest.put_back();
    opacity.put_back();
    rotation.put_back();
  }

  const GridModel& model_;
  const SmallAttributes small_;
  const Harmonics<kChannels> harmonics_;
};

template <int kChannels>
void step_all(const GridModel& model, const GridConstants& grids, const AdamConstants& constants, int threads) {
  const Step<kChannels> step(model, grids, constants);
  ThreadPool::run(threads, (model.count + kChunkRows - 1) / kChunkRows, [&](int64_t chunk, int) {
    step(chunk * kChunkRows, std::min(model.count, (chunk + 1) * kChunkRows));
  });
}

}  // namespace

void pull_back(float* gradients, int64_t rows, const GridConstants& grids, int channels, int threads) {
  switch (channels) {
    case 9: return pull_back_all<9>(gradients, rows, grids, threads);
    case 24: return pull_back_all<24>(gradients, rows, grids, threads);
    case 45: return pull_back_all<45>(gradients, rows, grids, threads);
  }
}

void grid_step(const GridModel& model, const GridConstants& grids, const AdamConstants& constants, int threads) {
  switch (model.rest.adam.width) {
    case 0: return step_all<0>(model, grids, constants, threads);
    case 9: return step_all<9>(model, grids, constants, threads);
    case 24: return step_all<24>(model, grids, constants, threads);
    case 45: return step_all<45>(model, grids, constants, threads);
  }
}

}  // namespace rasterizer
