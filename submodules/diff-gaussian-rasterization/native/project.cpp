// SPDX-License-Identifier: Apache-2.0
// Per Gaussian: from parameters to the splats that are blended, and from their derivatives to those of the parameters.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "frame.h"
#include "thread_pool.h"

namespace rasterizer {
namespace {

using namespace formulas;
using simd::Float;
using simd::kLanes;
using simd::Mask;

// As many Gaussians as there are lanes. Lanes past `used` repeat the last one.
struct Group {
  uint32_t index[kLanes];
  int used;
};

Mask lanes_used(const Group& group) { return simd::from_bits((1u << group.used) - 1u); }

Group consecutive(int64_t first, int64_t end) {
  Group group;
  group.used = static_cast<int>(std::min<int64_t>(kLanes, end - first));
  for (int lane = 0; lane < kLanes; ++lane) {
    group.index[lane] = static_cast<uint32_t>(first + std::min(lane, group.used - 1));
  }
  return group;
}

Group listed(const uint32_t* indices, int used) {
  Group group;
  group.used = std::min(used, kLanes);
  for (int lane = 0; lane < kLanes; ++lane) group.index[lane] = indices[std::min(lane, group.used - 1)];
  return group;
}

// Column c of the group's rows goes to out[c].
template <int kColumns>
void load(const float* base, int64_t stride, const Group& group, Float* out) {
  alignas(64) float columns[kColumns][kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const float* row = base + group.index[lane] * stride;
    for (int c = 0; c < kColumns; ++c) columns[c][lane] = row[c];
  }
  for (int c = 0; c < kColumns; ++c) out[c] = Float::load(columns[c]);
}

template <int kColumns>
void store(float* base, int64_t stride, const Group& group, const Float* in) {
  alignas(64) float columns[kColumns][kLanes];
  for (int c = 0; c < kColumns; ++c) in[c].store(columns[c]);
  for (int lane = 0; lane < group.used; ++lane) {
    float* row = base + group.index[lane] * stride;
    for (int c = 0; c < kColumns; ++c) row[c] = columns[c][lane];
  }
}

// The same for rows of any length from kLanes on, by transposing squares; the last square overlaps the one before.
template <class Visit>
void for_each_square(int columns, Visit&& visit) {
  for (int first = 0; first < columns; first += kLanes) visit(std::min(first, columns - kLanes));
}

void load_long(const float* base, int64_t stride, int columns, const Group& group, Float* out) {
  for_each_square(columns, [&](int first) {
    Float square[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) square[lane] = Float::load(base + group.index[lane] * stride + first);
    transpose(square);
    for (int c = 0; c < kLanes; ++c) out[first + c] = square[c];
  });
}

void store_long(float* base, int64_t stride, int columns, const Group& group, const Float* in) {
  for_each_square(columns, [&](int first) {
    Float square[kLanes];
    for (int c = 0; c < kLanes; ++c) square[c] = in[first + c];
    transpose(square);
    for (int lane = 0; lane < group.used; ++lane) square[lane].store(base + group.index[lane] * stride + first);
  });
}

Vector<Float> load_means(const Scene& scene, const Group& group) {
  Float p[3];
  load<3>(scene.means, 3, group, p);
  return {p[0], p[1], p[2]};
}

// The shape parameters of a group, activated where the scene is raw.
struct Shape {
  Quaternion<Float> stored_rotation;
  Quaternion<Float> rotation;
  Vector<Float> scale;  // the camera's modifier included
  WorldCovariance<Float> covariance;
  Float opacity;
};

Shape load_shape(const Scene& scene, const Camera& camera, const Group& group) {
  Shape shape;
  load<1>(scene.opacities, 1, group, &shape.opacity);
  if (scene.raw) shape.opacity = sigmoid(shape.opacity);
  if (scene.covariances != nullptr) {
    Float c[6];
    load<6>(scene.covariances, 6, group, c);
    shape.covariance = {c[0], c[1], c[2], c[3], c[4], c[5]};
    return shape;
  }
  Float s[3], q[4];
  load<3>(scene.scales, 3, group, s);
  load<4>(scene.rotations, 4, group, q);
  shape.stored_rotation = {q[0], q[1], q[2], q[3]};
  shape.rotation = shape.stored_rotation;
  if (scene.raw) {
    for (Float& value : s) value = exponential(value);
    shape.rotation = normalised(shape.stored_rotation);
  }
  shape.scale = scaled(Float(camera.scale_modifier), Vector<Float>{s[0], s[1], s[2]});
  return shape;
}

Ellipse<Float> ellipse_of(const Scene& scene, const Shape& shape, const Projection<Float>& projection) {
  if (scene.covariances != nullptr) return ellipse_of_covariance(projection, shape.covariance);
  return ellipse_of_axes(projected_axes(projection, rotation_matrix(shape.rotation), shape.scale));
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward

// Which tiles the lanes in `alive` reach: stores covers and numbers of tiles, and returns the numbers.
void file_covers(Frame& frame, const Group& group, uint32_t alive, const Reach<Float>& reach,
                 const TileRectangle<Float>& rectangle, uint32_t* tile_counts) {
  alignas(64) int32_t x0[kLanes], y0[kLanes], x1[kLanes], y1[kLanes];
  simd::store_integers(x0, rectangle.x0);
  simd::store_integers(y0, rectangle.y0);
  simd::store_integers(x1, rectangle.x1);
  simd::store_integers(y1, rectangle.y1);
  int most_rows = 0;
  for (uint32_t rest = alive; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    Cover& cover = frame.covers[group.index[lane]];
    cover = {static_cast<uint16_t>(x0[lane]), static_cast<uint16_t>(y0[lane]), static_cast<uint16_t>(x1[lane]),
             static_cast<uint16_t>(y1[lane]), 0};
    tile_counts[lane] = 0;
    most_rows = std::max(most_rows, y1[lane] - y0[lane]);
  }
  for (int row = 0; row < most_rows; ++row) {
    const TileSpan<Float> span = tiles_reached(reach, rectangle, rectangle.y0 + Float(static_cast<float>(row)));
    alignas(64) int32_t begin[kLanes], end[kLanes];
    simd::store_integers(begin, span.begin);
    simd::store_integers(end, span.end);
    for (uint32_t rest = alive; rest != 0; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      const int length = end[lane] - begin[lane];
      if (row >= y1[lane] - y0[lane] || length <= 0) continue;
      tile_counts[lane] += static_cast<uint32_t>(length);
      const int width = x1[lane] - x0[lane];
      if (width * (y1[lane] - y0[lane]) > kMaskTiles) continue;
      const uint64_t ones = ~uint64_t{0} >> (64 - length);
      frame.covers[group.index[lane]].mask |= ones << (row * width + begin[lane] - x0[lane]);
    }
  }
}

void file_reaches(Frame& frame, const Group& group, uint32_t lanes, const Reach<Float>& reach) {
  alignas(64) float columns[9][kLanes];
  const Float* fields[9] = {&reach.x, &reach.y, &reach.half_height, &reach.rightmost_y, &reach.slope,
                            &reach.chord, &reach.curvature, &reach.slack, &reach.margin};
  for (int c = 0; c < 9; ++c) fields[c]->store(columns[c]);
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const Cover& cover = frame.covers[group.index[lane]];
    if ((cover.x1 - cover.x0) * (cover.y1 - cover.y0) <= kMaskTiles) continue;
    frame.reaches[group.index[lane]] = {columns[0][lane], columns[1][lane], columns[2][lane], columns[3][lane],
                                        columns[4][lane], columns[5][lane], columns[6][lane], columns[7][lane],
                                        columns[8][lane]};
  }
}

void file_splats(Frame& frame, const Group& group, uint32_t lanes, const Float (&fields)[8], Float inverse_depth) {
  alignas(64) float columns[9][kLanes];
  for (int c = 0; c < 8; ++c) fields[c].store(columns[c]);
  inverse_depth.store(columns[8]);
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    float* splat = &frame.splats[group.index[lane]].x;
    for (int c = 0; c < 8; ++c) splat[c] = columns[c][lane];
    splat[11] = columns[8][lane];
  }
}

// Stores one group; the Gaussians that reach a tile are appended to `drawn`, and their sort keys to `keys`.
void project_group(Frame& frame, const Scene& scene, const Group& group, int32_t* radii, uint32_t* drawn, uint64_t* keys,
                   uint32_t& drawn_count) {
  const Camera& camera = frame.camera;
  uint32_t* const tile_counts = frame.first_slot.data();  // counts for now; summed up when all are known
  for (int lane = 0; lane < group.used; ++lane) {
    radii[group.index[lane]] = 0;
    tile_counts[group.index[lane]] = 0;
  }
  const Vector<Float> mean = load_means(scene, group);
  const Mask in_front = (view_depth(camera, mean) > Float(kNearDepth)) & lanes_used(group);
  if (simd::bits(in_front) == 0) return;

  const Vector<Float> view = view_position(camera, mean);
  const Shape shape = load_shape(scene, camera, group);
  const Ellipse<Float> ellipse = ellipse_of(scene, shape, projection_at(camera, view));
  const Footprint<Float> footprint = footprint_of(ellipse, camera);
  const DevicePosition<Float> device = device_position(camera, mean);
  const Float x = pixel_coordinate(device.x, camera.width);
  const Float y = pixel_coordinate(device.y, camera.height);
  const Float radius = round_up(radius_of(footprint));
  const TileRectangle<Float> rectangle = tile_rectangle(x, y, radius + Float(camera.margin), frame.columns, frame.rows);
  const Float largest = Float(kLargestDeterminant);
  const Mask visible = in_front & (radius <= Float(kLargestRadius)) & (Float(0.0f) < footprint.determinant) &
                       (footprint.determinant <= largest) & (rectangle.x0 < rectangle.x1) & (rectangle.y0 < rectangle.y1);
  alignas(64) int32_t whole_radius[kLanes];
  simd::store_integers(whole_radius, select(visible, radius, Float(0.0f)));
  for (int lane = 0; lane < group.used; ++lane) radii[group.index[lane]] = whole_radius[lane];

  const Float opacity = shape.opacity * footprint.compensation;
  const uint32_t candidates = simd::bits(visible & (Float(kAlphaMin) <= opacity));
  if (candidates == 0) return;

  const Reach<Float> reach = reach_of(footprint, x, y, opacity, camera);
  uint32_t counts[kLanes];
  file_covers(frame, group, candidates, reach, rows_reached(reach, rectangle), counts);
  uint32_t reaching = 0;
  for (uint32_t rest = candidates; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (counts[lane] != 0) reaching |= 1u << lane;
  }
  file_reaches(frame, group, reaching, reach);
  const Conic<Float>& k = footprint.conic;
  const Float half = Float(-0.5f * kLog2E);
  file_splats(frame, group, reaching,
              {x, y, half * k.xx, Float(-kLog2E) * k.xy, half * k.yy, binary_logarithm(opacity), -k.xy / k.xx, -k.xy / k.yy},
              Float(1.0f) / view.z);
  alignas(64) float depth[kLanes];
  view.z.store(depth);
  for (uint32_t rest = reaching; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const uint32_t index = group.index[lane];
    uint32_t depth_bits;
    std::memcpy(&depth_bits, &depth[lane], sizeof depth_bits);
    tile_counts[index] = counts[lane];
    drawn[drawn_count] = index;
    keys[drawn_count] = static_cast<uint64_t>(depth_bits) << 32 | index;
    ++drawn_count;
  }
}

constexpr int kRestFloats[4] = {0, 9, 24, 45};  // of the harmonics after the first, by degree

// The spherical harmonics of a group: 3 k + channel.
void load_coefficients(const Scene& scene, const Group& group, int degree, Float* out) {
  load<3>(scene.dc, scene.dc_stride, group, out);
  if (degree == 0) return;
  if (kRestFloats[degree] >= kLanes) {
    load_long(scene.rest, scene.rest_stride, kRestFloats[degree], group, out + 3);
  } else {
    load<kRestFloats[1]>(scene.rest, scene.rest_stride, group, out + 3);
  }
}

void store_coefficients(const SceneGradients& gradients, const Group& group, int degree, const Float* in) {
  if (gradients.dc != nullptr) store<3>(gradients.dc, gradients.dc_stride, group, in);
  if (gradients.rest == nullptr || gradients.rest_width == 0) return;
  if (kRestFloats[degree] >= kLanes) {
    store_long(gradients.rest, gradients.rest_stride, kRestFloats[degree], group, in + 3);
  } else if (degree != 0) {
    store<kRestFloats[1]>(gradients.rest, gradients.rest_stride, group, in + 3);
  }
  const int unused = gradients.rest_width - kRestFloats[degree];
  for (int lane = 0; lane < group.used && unused > 0; ++lane) {
    std::memset(gradients.rest + group.index[lane] * gradients.rest_stride + kRestFloats[degree], 0, unused * sizeof(float));
  }
}

void color_group(Frame& frame, const Scene& scene, const Group& group) {
  Float color[3];
  if (scene.colors != nullptr) {
    load<3>(scene.colors, 3, group, color);
  } else {
    const int degree = frame.camera.sh_degree;
    const int count = coefficient_count(degree);
    Float basis[kMaxCoefficients], coefficients[3 * kMaxCoefficients];
    load_coefficients(scene, group, degree, coefficients);
    harmonics(degree, direction_to(frame.camera, load_means(scene, group)), basis);
    for (int channel = 0; channel < 3; ++channel) {
      Float value = Float(0.5f);
      for (int k = 0; k < count; ++k) value = fmadd(basis[k], coefficients[3 * k + channel], value);
      color[channel] = maximum(Float(0.0f), value);  // NaN is kept
    }
  }
  store<3>(&frame.splats.data()->red, sizeof(Splat) / sizeof(float), group, color);
}

void project_chunk(Frame& frame, const Scene& scene, int32_t* radii, int64_t chunk) {
  const int64_t begin = chunk * kChunk;
  const int64_t end = std::min(scene.count, begin + kChunk);
  uint32_t drawn[kChunk];
  uint32_t drawn_count = 0;
  uint64_t* keys = frame.keys_swap.data() + begin;
  for (int64_t first = begin; first < end; first += kLanes) {
    project_group(frame, scene, consecutive(first, end), radii, drawn, keys, drawn_count);
  }
  for (uint32_t done = 0; done < drawn_count; done += kLanes) {
    color_group(frame, scene, listed(drawn + done, static_cast<int>(drawn_count - done)));
  }
  uint64_t entries = 0;
  for (uint32_t i = 0; i < drawn_count; ++i) entries += frame.first_slot[drawn[i]];
  frame.chunk_drawn[chunk] = drawn_count;
  frame.chunk_entries[chunk] = entries;
}

// Turns numbers per chunk into the numbers before each chunk; returns the total.
template <class T>
uint64_t sum_up(T* values, int64_t count) {
  uint64_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t value = values[i];
    values[i] = static_cast<T>(total);
    total += value;
  }
  return total;
}

// Moves the keys of a chunk next to those of the chunks before, and numbers its slots.
void number_chunk(Frame& frame, int64_t chunk, uint32_t drawn_end) {
  const int64_t begin = chunk * kChunk;
  const int64_t end = std::min(frame.count, begin + kChunk);
  const uint32_t drawn_begin = frame.chunk_drawn[chunk];
  std::memcpy(frame.keys.data() + drawn_begin, frame.keys_swap.data() + begin, (drawn_end - drawn_begin) * sizeof(uint64_t));
  uint32_t slot = static_cast<uint32_t>(frame.chunk_entries[chunk]);
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t tiles = frame.first_slot[i];
    frame.first_slot[i] = slot;
    slot += tiles;
  }
}

}  // namespace

void project_gaussians(Frame& frame, const Scene& scene, int32_t* radii, int threads) {
  const int64_t n = scene.count;
  const int64_t chunks = frame.chunks();
  frame.splats.reserve(n);
  frame.covers.reserve(n);
  frame.reaches.reserve(n);
  frame.first_slot.reserve(n + 1);
  frame.keys.reserve(n);
  frame.keys_swap.reserve(n);
  frame.chunk_drawn.reserve(chunks + 1);
  frame.chunk_entries.reserve(chunks + 1);
  ThreadPool::run(threads, chunks, [&](int64_t chunk, int) { project_chunk(frame, scene, radii, chunk); });
  frame.drawn = static_cast<uint32_t>(sum_up(frame.chunk_drawn.data(), chunks));
  const uint64_t entries = sum_up(frame.chunk_entries.data(), chunks);
  if (entries > kMostEntries) throw TooManyEntries{entries};
  ThreadPool::run(threads, chunks, [&](int64_t chunk, int) {
    number_chunk(frame, chunk, chunk + 1 < chunks ? frame.chunk_drawn[chunk + 1] : frame.drawn);
  });
  frame.first_slot[n] = static_cast<uint32_t>(entries);
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward

namespace {

// Sums over the tiles of a group: the fields of TileGradient.
struct ScreenGradient {
  Float s, sx, sy, sxx, sxy, syy;
  Float color[3];
  Float inverse_depth;
};
constexpr int kRecordFloats = 10;

bool sum_records(const Frame& frame, uint32_t gaussian, float* total) {
  bool any = false;
  for (int c = 0; c < kRecordFloats; ++c) total[c] = 0.0f;
  for (uint32_t slot = frame.first_slot[gaussian]; slot < frame.first_slot[gaussian + 1]; ++slot) {
    if (!frame.written[slot]) continue;
    any = true;
    const float* record = &frame.gradients[slot].s;
    for (int c = 0; c < kRecordFloats; ++c) total[c] += record[c];
  }
  return any;
}

void zero_rows(const SceneGradients& g, int64_t begin, int64_t end) {
  const auto zero = [begin, end](float* base, int64_t stride, int64_t width) {
    if (base == nullptr) return;
    if (stride == width) {
      std::memset(base + begin * stride, 0, (end - begin) * width * sizeof(float));
      return;
    }
    for (int64_t i = begin; i < end; ++i) std::memset(base + i * stride, 0, width * sizeof(float));
  };
  zero(g.means, 3, 3);
  zero(g.opacities, 1, 1);
  zero(g.scales, 3, 3);
  zero(g.rotations, 4, 4);
  zero(g.covariances, 6, 6);
  zero(g.colors, 3, 3);
  zero(g.dc, g.dc_stride, 3);
  zero(g.rest, g.rest_stride, g.rest_width);
  zero(g.screen, g.screen_width, g.screen_width);
}

// Writes the derivatives for the harmonics and returns the one for the centre, through the direction of view.
Vector<Float> color_backward(const Frame& frame, const Scene& scene, const SceneGradients& gradients, const Group& group,
                             const Vector<Float>& mean, const Float (&d_color)[3]) {
  const int degree = frame.camera.sh_degree;
  const int count = coefficient_count(degree);
  Float basis[kMaxCoefficients], coefficients[3 * kMaxCoefficients], d_basis[kMaxCoefficients];
  const Vector<Float> direction = direction_to(frame.camera, mean);
  harmonics(degree, direction, basis);
  for (int k = 0; k < count; ++k) {
    for (int c = 0; c < 3; ++c) coefficients[3 * k + c] = basis[k] * d_color[c];
  }
  store_coefficients(gradients, group, degree, coefficients);
  if (degree == 0) return {Float(0.0f), Float(0.0f), Float(0.0f)};
  load_coefficients(scene, group, degree, coefficients);
  for (int k = 0; k < count; ++k) {
    d_basis[k] = fmadd(coefficients[3 * k], d_color[0],
                       fmadd(coefficients[3 * k + 1], d_color[1], coefficients[3 * k + 2] * d_color[2]));
  }
  return direction_backward(frame.camera, mean, harmonics_backward(degree, direction, d_basis));
}

// Negative colours were replaced by 0, which is constant.
void stop_clamped_colors(const Frame& frame, const Group& group, Float (&d_color)[3]) {
  Float color[3];
  load<3>(&frame.splats.data()->red, sizeof(Splat) / sizeof(float), group, color);
  for (int c = 0; c < 3; ++c) d_color[c] = select(color[c] <= Float(0.0f), Float(0.0f), d_color[c]);
}

// Writes the derivatives for shape and opacity and returns the one for the camera-space centre.
Vector<Float> shape_backward(const Frame& frame, const Scene& scene, const SceneGradients& gradients, const Group& group,
                             const Vector<Float>& view, const Shape& shape, const Ellipse<Float>& ellipse,
                             const Footprint<Float>& footprint, const Projection<Float>& projection,
                             const ScreenGradient& d) {
  const Camera& camera = frame.camera;
  const Conic<Float> d_conic = {Float(-0.5f) * d.sxx, -d.sxy, Float(-0.5f) * d.syy};
  const Covariance<Float> d_covariance = footprint_backward(ellipse, footprint, d_conic, d.s, camera);
  if (gradients.opacities != nullptr) {
    const Float d_opacity = scene.raw ? d.s * (Float(1.0f) - shape.opacity) : d.s / shape.opacity;
    store<1>(gradients.opacities, 1, group, &d_opacity);
  }
  if (scene.covariances != nullptr) {
    if (gradients.covariances != nullptr) {
      const WorldCovariance<Float> c = world_covariance_backward(projection, d_covariance);
      const Float packed[6] = {c.xx, c.xy, c.xz, c.yy, c.yz, c.zz};
      store<6>(gradients.covariances, 6, group, packed);
    }
    return projection_backward(camera, view, ellipse_of_covariance_backward(projection, shape.covariance, d_covariance));
  }
  const Rotation<Float> rotation = rotation_matrix(shape.rotation);
  const Projection<Float> axes = projected_axes(projection, rotation, shape.scale);
  const AxesGradient<Float> d_axes =
      projected_axes_backward(projection, rotation, shape.scale, ellipse_of_axes_backward(axes, d_covariance));
  if (gradients.scales != nullptr) {
    const Vector<Float>& s = d_axes.scale;
    const Float modifier = Float(camera.scale_modifier);
    const Float linear[3] = {s.x * modifier, s.y * modifier, s.z * modifier};
    const Float logarithmic[3] = {s.x * shape.scale.x, s.y * shape.scale.y, s.z * shape.scale.z};
    store<3>(gradients.scales, 3, group, scene.raw ? logarithmic : linear);
  }
  if (gradients.rotations != nullptr) {
    Quaternion<Float> q = rotation_matrix_backward(shape.rotation, d_axes.rotation);
    if (scene.raw) q = normalised_backward(shape.stored_rotation, q);
    const Float wxyz[4] = {q.w, q.x, q.y, q.z};
    store<4>(gradients.rotations, 4, group, wxyz);
  }
  return projection_backward(camera, view, d_axes.projection);
}

void group_backward(const Frame& frame, const Scene& scene, const SceneGradients& gradients, const Group& group,
                    ScreenGradient& d) {
  const Camera& camera = frame.camera;
  const Vector<Float> mean = load_means(scene, group);
  const Vector<Float> view = view_position(camera, mean);
  const Shape shape = load_shape(scene, camera, group);
  const Projection<Float> projection = projection_at(camera, view);
  const Ellipse<Float> ellipse = ellipse_of(scene, shape, projection);
  const Footprint<Float> footprint = footprint_of(ellipse, camera);
  const DevicePosition<Float> device = device_position(camera, mean);

  // The exponent's derivative for the centre: conic times (pixel - centre), summed with the weights s.
  const Conic<Float>& k = footprint.conic;
  const Float d_x = fmadd(k.xx, d.sx, k.xy * d.sy) * Float(0.5f * static_cast<float>(camera.width));
  const Float d_y = fmadd(k.xy, d.sx, k.yy * d.sy) * Float(0.5f * static_cast<float>(camera.height));
  if (gradients.screen != nullptr) {
    const Float screen[3] = {d_x, d_y, Float(0.0f)};
    if (gradients.screen_width == 3) {
      store<3>(gradients.screen, 3, group, screen);
    } else {
      store<2>(gradients.screen, 2, group, screen);
    }
  }
  Vector<Float> d_mean = device_position_backward(camera, device, d_x, d_y);
  Vector<Float> d_view =
      shape_backward(frame, scene, gradients, group, view, shape, ellipse, footprint, projection, d);
  const Float inverse_z = Float(1.0f) / view.z;
  d_view.z = fnmadd(d.inverse_depth * inverse_z, inverse_z, d_view.z);
  const Float one = Float(1.0f);
  d_mean = added(d_mean, one, view_position_backward(camera, d_view));
  if (scene.colors != nullptr) {
    if (gradients.colors != nullptr) store<3>(gradients.colors, 3, group, d.color);
  } else {
    stop_clamped_colors(frame, group, d.color);
    d_mean = added(d_mean, one, color_backward(frame, scene, gradients, group, mean, d.color));
  }
  if (gradients.means != nullptr) {
    const Float packed[3] = {d_mean.x, d_mean.y, d_mean.z};
    store<3>(gradients.means, 3, group, packed);
  }
}

ScreenGradient screen_gradient(const float (*totals)[kRecordFloats], const uint32_t* order, int used) {
  Group group = listed(order, used);
  Float f[kRecordFloats];
  load<kRecordFloats>(totals[0], kRecordFloats, group, f);
  return {f[0], f[1], f[2], f[3], f[4], f[5], {f[6], f[7], f[8]}, f[9]};
}

void chunk_backward(const Frame& frame, const Scene& scene, const SceneGradients& gradients, int64_t chunk) {
  const int64_t begin = chunk * kChunk;
  const int64_t end = std::min(scene.count, begin + kChunk);
  uint32_t drawn[kChunk], place[kChunk];
  float totals[kChunk][kRecordFloats];
  int count = 0;
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t index = static_cast<uint32_t>(i);
    if (!sum_records(frame, index, totals[count])) continue;
    drawn[count] = index;
    place[count] = static_cast<uint32_t>(count);
    ++count;
  }
  // In the nearest caches it is cheaper to zero a few rows too many than to find those that need it.
  if (count < end - begin) zero_rows(gradients, begin, end);
  for (int done = 0; done < count; done += kLanes) {
    ScreenGradient d = screen_gradient(totals, place + done, count - done);
    group_backward(frame, scene, gradients, listed(drawn + done, count - done), d);
  }
}

}  // namespace

void project_backward(Frame& frame, const Scene& scene, const SceneGradients& gradients, int threads) {
  ThreadPool::run(threads, frame.chunks(),
                  [&](int64_t chunk, int) { chunk_backward(frame, scene, gradients, chunk); });
}

}  // namespace rasterizer
