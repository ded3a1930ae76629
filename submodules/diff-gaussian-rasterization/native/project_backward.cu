// SPDX-License-Identifier: Apache-2.0
// From the derivatives for what was blended to those of the parameters: one thread a Gaussian. Two kernels: one writes the derivatives,
// the other takes a step of Adam with them at once.
#include "cuda_frame.h"

#include "cuda_adam.h"
#include "cuda_shape.h"

using namespace cuda;

struct ProjectBackwardArguments {
  Frame frame;
  Scene scene;
  SceneGradients gradients;
};

// One parameter array with its moments.
struct Attribute {
  float* parameter;
  float* mean;
  float* variance;
  AdamFactors factors;
};

// Mirrored in cuda_render.py of the package, as the one above. The scene is raw, and its arrays are the parameters.
struct ProjectUpdateArguments {
  Frame frame;
  Scene scene;
  Attribute means, dc, rest, opacities, scales, rotations;
  float* screen;           // (N, 2), or null: as in SceneGradients
  int32_t rest_width;      // floats of a row of `rest`
  int32_t in_view_only;    // bool: Gaussians not in view do not change, nor do their moments
};

// Sums of the records of a Gaussian, in the order of its slots.
DEVICE Record sum_records(const Frame& f, int64_t i) {
  Record total = {};
  const uint32_t begin = f.first_slots[i], end = begin + f.tile_counts[i];
  for (uint32_t slot = begin; slot < end; ++slot) {
    const Record record = f.records[slot];
    total.s += record.s;
    total.sx += record.sx;
    total.sy += record.sy;
    total.sxx += record.sxx;
    total.sxy += record.sxy;
    total.syy += record.syy;
    for (int c = 0; c < kChannels; ++c) total.channel[c] += record.channel[c];
  }
  return total;
}

// Whether a pixel was changed: where none was, formulas must not be evaluated, because they may give NaN.
DEVICE bool is_empty(const Record& r) {
  bool empty = r.s == 0.0f && r.sx == 0.0f && r.sy == 0.0f && r.sxx == 0.0f && r.sxy == 0.0f && r.syy == 0.0f;
  for (int c = 0; c < kChannels; ++c) empty = empty && r.channel[c] == 0.0f;
  return empty;
}

DEVICE void store(float* rows, int64_t i, const Vector<float>& v) {
  if (rows == nullptr) return;
  rows[3 * i] = v.x;
  rows[3 * i + 1] = v.y;
  rows[3 * i + 2] = v.z;
}

DEVICE void store(float* rows, int64_t i, const Quaternion<float>& q) {
  if (rows == nullptr) return;
  rows[4 * i] = q.w;
  rows[4 * i + 1] = q.x;
  rows[4 * i + 2] = q.y;
  rows[4 * i + 3] = q.z;
}

DEVICE void store(float* rows, int64_t i, const WorldCovariance<float>& c) {
  if (rows == nullptr) return;
  rows[6 * i] = c.xx;
  rows[6 * i + 1] = c.xy;
  rows[6 * i + 2] = c.xz;
  rows[6 * i + 3] = c.yy;
  rows[6 * i + 4] = c.yz;
  rows[6 * i + 5] = c.zz;
}

// Takes the derivatives of a Gaussian, each once, and writes them.
struct Written {
  const SceneGradients& g;
  DEVICE void mean(int64_t i, const Vector<float>& d) const { store(g.means, i, d); }
  DEVICE void scale(int64_t i, const Vector<float>& d) const { store(g.scales, i, d); }
  DEVICE void rotation(int64_t i, const Quaternion<float>& d) const { store(g.rotations, i, d); }
  DEVICE void covariance(int64_t i, const WorldCovariance<float>& d) const { store(g.covariances, i, d); }
  DEVICE void color(int64_t i, const Vector<float>& d) const { store(g.colors, i, d); }
  DEVICE void opacity(int64_t i, float d) const {
    if (g.opacities != nullptr) g.opacities[i] = d;
  }
  DEVICE void screen(int64_t i, float x, float y) const {
    if (g.screen == nullptr) return;
    float* row = g.screen + i * g.screen_width;
    row[0] = x;
    row[1] = y;
    if (g.screen_width == 3) row[2] = 0.0f;
  }
  DEVICE void first_coefficient(int64_t i, int channel, float d) const {
    if (g.dc != nullptr) g.dc[i * g.dc_stride + channel] = d;
  }
  DEVICE int rest_width() const { return g.rest == nullptr ? 0 : g.rest_width; }
  DEVICE void other_coefficient(int64_t i, int number, float d) const { g.rest[i * g.rest_stride + number] = d; }
};

// Takes the derivatives of a Gaussian, each once, and updates the parameters; their old values must have been read.
struct Applied {
  const ProjectUpdateArguments& a;
  DEVICE static void move(const Attribute& to, int64_t place, float d) {
    float mean = to.mean[place], variance = to.variance[place];
    to.parameter[place] = adam_moved(to.factors, to.parameter[place], d, mean, variance);
    to.mean[place] = mean;
    to.variance[place] = variance;
  }
  DEVICE static void move(const Attribute& to, int64_t i, const Vector<float>& d) {
    move(to, 3 * i, d.x);
    move(to, 3 * i + 1, d.y);
    move(to, 3 * i + 2, d.z);
  }
  DEVICE void mean(int64_t i, const Vector<float>& d) const { move(a.means, i, d); }
  DEVICE void scale(int64_t i, const Vector<float>& d) const { move(a.scales, i, d); }
  DEVICE void rotation(int64_t i, const Quaternion<float>& d) const {
    move(a.rotations, 4 * i, d.w);
    move(a.rotations, 4 * i + 1, d.x);
    move(a.rotations, 4 * i + 2, d.y);
    move(a.rotations, 4 * i + 3, d.z);
  }
  DEVICE void covariance(int64_t, const WorldCovariance<float>&) const {}
  DEVICE void color(int64_t, const Vector<float>&) const {}
  DEVICE void opacity(int64_t i, float d) const { move(a.opacities, i, d); }
  DEVICE void screen(int64_t i, float x, float y) const {
    if (a.screen == nullptr) return;
    a.screen[2 * i] = x;
    a.screen[2 * i + 1] = y;
  }
  DEVICE void first_coefficient(int64_t i, int channel, float d) const { move(a.dc, 3 * i + channel, d); }
  DEVICE int rest_width() const { return a.rest_width; }
  DEVICE void other_coefficient(int64_t i, int number, float d) const { move(a.rest, i * a.rest_width + number, d); }
};

// Derivatives for the harmonics: basis function times derivative for the colour; `basis` null gives zeros.
template <class Taker>
DEVICE void give_coefficients(const Taker& to, int64_t i, int count, const float* basis, const float* d_color) {
  for (int c = 0; c < 3; ++c) to.first_coefficient(i, c, basis == nullptr ? 0.0f : basis[0] * d_color[c]);
  const int width = to.rest_width();
#pragma unroll
  for (int k = 1; k < kMaxCoefficients; ++k) {
    if (3 * k > width) continue;
    for (int c = 0; c < 3; ++c) {
      to.other_coefficient(i, 3 * (k - 1) + c, basis != nullptr && k < count ? basis[k] * d_color[c] : 0.0f);
    }
  }
  for (int more = 3 * (kMaxCoefficients - 1); more < width; ++more) to.other_coefficient(i, more, 0.0f);
}

template <class Taker>
DEVICE void give_zeros(const Taker& to, int64_t i) {
  const Vector<float> zero = {0.0f, 0.0f, 0.0f};
  to.opacity(i, 0.0f);
  to.mean(i, zero);
  to.scale(i, zero);
  to.color(i, zero);
  to.rotation(i, Quaternion<float>{0.0f, 0.0f, 0.0f, 0.0f});
  to.covariance(i, WorldCovariance<float>{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f});
  to.screen(i, 0.0f, 0.0f);
  give_coefficients(to, i, 0, nullptr, nullptr);
}

// Gives the derivatives for the harmonics and returns the one for the centre, through the direction of view.
template <class Taker>
DEVICE Vector<float> color_backward(const Camera& camera, const Scene& scene, const Taker& to, int64_t i,
                                    const Vector<float>& mean, const float* d_color) {
  const int count = coefficient_count(camera.sh_degree);
  float basis[kMaxCoefficients], d_basis[kMaxCoefficients];
  const Vector<float> direction = direction_to(camera, mean);
  harmonics(camera.sh_degree, direction, basis);
#pragma unroll
  for (int k = 0; k < kMaxCoefficients; ++k) {
    if (k >= count) continue;
    d_basis[k] = fmadd(coefficient(scene, i, k, 0), d_color[0],
                       fmadd(coefficient(scene, i, k, 1), d_color[1], coefficient(scene, i, k, 2) * d_color[2]));
  }
  give_coefficients(to, i, count, basis, d_color);
  if (camera.sh_degree == 0) return {0.0f, 0.0f, 0.0f};
  return direction_backward(camera, mean, harmonics_backward(camera.sh_degree, direction, d_basis));
}

// What the backward pass repeats of the forward pass.
struct Projected {
  Vector<float> view;
  Shape shape;
  Projection<float> projection;
  Ellipse<float> ellipse;
  Footprint<float> footprint;
};

// Gives the derivatives for shape and opacity and returns the one for the camera-space centre.
template <class Taker>
DEVICE Vector<float> shape_backward(const Camera& camera, const Scene& scene, const Taker& to, int64_t i,
                                    const Projected& p, const Record& d) {
  const bool raw = scene.raw != 0;
  const Conic<float> d_conic = {-0.5f * d.sxx, -d.sxy, -0.5f * d.syy};
  const Covariance<float> d_covariance = footprint_backward(p.ellipse, p.footprint, d_conic, d.s, camera);
  to.opacity(i, raw ? d.s * (1.0f - p.shape.opacity) : d.s / p.shape.opacity);
  if (scene.covariances != nullptr) {
    to.covariance(i, world_covariance_backward(p.projection, d_covariance));
    return projection_backward(camera, p.view,
                               ellipse_of_covariance_backward(p.projection, p.shape.covariance, d_covariance));
  }
  const Rotation<float> rotation = rotation_matrix(p.shape.rotation);
  const Vector<float>& scale = p.shape.scale;
  const Projection<float> axes = projected_axes(p.projection, rotation, scale);
  const AxesGradient<float> d_axes =
      projected_axes_backward(p.projection, rotation, scale, ellipse_of_axes_backward(axes, d_covariance));
  const Vector<float>& s = d_axes.scale;
  const Vector<float> logarithmic = {s.x * scale.x, s.y * scale.y, s.z * scale.z};
  to.scale(i, raw ? logarithmic : scaled(camera.scale_modifier, s));
  const Quaternion<float> q = rotation_matrix_backward(p.shape.rotation, d_axes.rotation);
  to.rotation(i, raw ? normalised_backward(p.shape.stored_rotation, q) : q);
  return projection_backward(camera, p.view, d_axes.projection);
}

template <class Taker>
DEVICE void differentiate(const Frame& f, const Scene& scene, const Taker& to, int64_t i) {
  const Camera& camera = f.camera;
  Record d = {};
  if (f.tile_counts[i] != 0) d = sum_records(f, i);
  if (is_empty(d)) {
    give_zeros(to, i);
    return;
  }
  const Vector<float> mean = load_vector(scene.means, i);
  Projected p;
  p.view = view_position(camera, mean);
  p.shape = load_shape(scene, camera, i);
  p.projection = projection_at(camera, p.view);
  p.ellipse = ellipse_of(scene, p.shape, p.projection);
  p.footprint = footprint_of(p.ellipse, camera);

  // The exponent's derivative for the centre: conic times (pixel - centre), summed with the weights s.
  const Conic<float>& k = p.footprint.conic;
  const float d_x = fmadd(k.xx, d.sx, k.xy * d.sy) * (0.5f * static_cast<float>(camera.width));
  const float d_y = fmadd(k.xy, d.sx, k.yy * d.sy) * (0.5f * static_cast<float>(camera.height));
  to.screen(i, d_x, d_y);
  Vector<float> d_mean = device_position_backward(camera, device_position(camera, mean), d_x, d_y);
  Vector<float> d_view = shape_backward(camera, scene, to, i, p, d);
  const float inverse_z = 1.0f / p.view.z;
  d_view.z = fnmadd(d.channel[3] * inverse_z, inverse_z, d_view.z);
  d_mean = added(d_mean, 1.0f, view_position_backward(camera, d_view));
  if (scene.colors != nullptr) {
    to.color(i, Vector<float>{d.channel[0], d.channel[1], d.channel[2]});
  } else {
    // Negative colours were replaced by 0, which is constant.
    for (int c = 0; c < 3; ++c) {
      if (f.splats[i].channel[c] <= 0.0f) d.channel[c] = 0.0f;
    }
    d_mean = added(d_mean, 1.0f, color_backward(camera, scene, to, i, mean, d.channel));
  }
  to.mean(i, d_mean);
}

KERNEL(project_backward, 128, ProjectBackwardArguments) {
  const int64_t i = global_thread();
  if (i >= arguments.frame.count) return;
  differentiate(arguments.frame, arguments.scene, Written{arguments.gradients}, i);
}

KERNEL(project_update, 128, ProjectUpdateArguments) {
  const int64_t i = global_thread();
  if (i >= arguments.frame.count) return;
  const Applied to = {arguments};
  if (arguments.in_view_only && arguments.frame.radii[i] <= 0) {
    to.screen(i, 0.0f, 0.0f);
    return;
  }
  differentiate(arguments.frame, arguments.scene, to, i);
}
