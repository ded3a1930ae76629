// SPDX-License-Identifier: Apache-2.0
// From the derivatives for what was blended to those of the parameters: one thread a Gaussian.
#include "cuda_frame.h"

#include "cuda_shape.h"

using namespace cuda;

struct ProjectBackwardArguments {
  Frame frame;
  Scene scene;
  SceneGradients gradients;
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

DEVICE void store_screen(const SceneGradients& g, int64_t i, float x, float y) {
  if (g.screen == nullptr) return;
  float* row = g.screen + i * g.screen_width;
  row[0] = x;
  row[1] = y;
  if (g.screen_width == 3) row[2] = 0.0f;
}

// Derivatives for the harmonics: basis function times derivative for the colour; `basis` null writes zeros.
DEVICE void store_coefficients(const SceneGradients& g, int64_t i, int count, const float* basis, const float* d_color) {
  for (int c = 0; c < 3 && g.dc != nullptr; ++c) g.dc[i * g.dc_stride + c] = basis == nullptr ? 0.0f : basis[0] * d_color[c];
  if (g.rest == nullptr) return;
  float* rest = g.rest + i * g.rest_stride;
#pragma unroll
  for (int k = 1; k < kMaxCoefficients; ++k) {
    if (3 * k > g.rest_width) continue;
    for (int c = 0; c < 3; ++c) rest[3 * (k - 1) + c] = basis != nullptr && k < count ? basis[k] * d_color[c] : 0.0f;
  }
  for (int more = 3 * (kMaxCoefficients - 1); more < g.rest_width; ++more) rest[more] = 0.0f;
}

DEVICE void store_zeros(const SceneGradients& g, int64_t i) {
  const Vector<float> zero = {0.0f, 0.0f, 0.0f};
  if (g.opacities != nullptr) g.opacities[i] = 0.0f;
  store(g.means, i, zero);
  store(g.scales, i, zero);
  store(g.colors, i, zero);
  store(g.rotations, i, Quaternion<float>{0.0f, 0.0f, 0.0f, 0.0f});
  store(g.covariances, i, WorldCovariance<float>{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f});
  store_screen(g, i, 0.0f, 0.0f);
  store_coefficients(g, i, 0, nullptr, nullptr);
}

// Writes the derivatives for the harmonics and returns the one for the centre, through the direction of view.
DEVICE Vector<float> color_backward(const ProjectBackwardArguments& a, int64_t i, const Vector<float>& mean,
                                    const float* d_color) {
  const Camera& camera = a.frame.camera;
  const int count = coefficient_count(camera.sh_degree);
  float basis[kMaxCoefficients], d_basis[kMaxCoefficients];
  const Vector<float> direction = direction_to(camera, mean);
  harmonics(camera.sh_degree, direction, basis);
  store_coefficients(a.gradients, i, count, basis, d_color);
  if (camera.sh_degree == 0) return {0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int k = 0; k < kMaxCoefficients; ++k) {
    if (k >= count) continue;
    d_basis[k] = fmadd(coefficient(a.scene, i, k, 0), d_color[0],
                       fmadd(coefficient(a.scene, i, k, 1), d_color[1], coefficient(a.scene, i, k, 2) * d_color[2]));
  }
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

// Writes the derivatives for shape and opacity and returns the one for the camera-space centre.
DEVICE Vector<float> shape_backward(const ProjectBackwardArguments& a, int64_t i, const Projected& p, const Record& d) {
  const Camera& camera = a.frame.camera;
  const SceneGradients& g = a.gradients;
  const bool raw = a.scene.raw != 0;
  const Conic<float> d_conic = {-0.5f * d.sxx, -d.sxy, -0.5f * d.syy};
  const Covariance<float> d_covariance = footprint_backward(p.ellipse, p.footprint, d_conic, d.s, camera);
  if (g.opacities != nullptr) g.opacities[i] = raw ? d.s * (1.0f - p.shape.opacity) : d.s / p.shape.opacity;
  if (a.scene.covariances != nullptr) {
    store(g.covariances, i, world_covariance_backward(p.projection, d_covariance));
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
  store(g.scales, i, raw ? logarithmic : scaled(camera.scale_modifier, s));
  const Quaternion<float> q = rotation_matrix_backward(p.shape.rotation, d_axes.rotation);
  store(g.rotations, i, raw ? normalised_backward(p.shape.stored_rotation, q) : q);
  return projection_backward(camera, p.view, d_axes.projection);
}

KERNEL(project_backward, 128, ProjectBackwardArguments) {
  const Frame& f = arguments.frame;
  const SceneGradients& g = arguments.gradients;
  const Camera& camera = f.camera;
  const int64_t i = global_thread();
  if (i >= f.count) return;
  Record d = {};
  if (f.tile_counts[i] != 0) d = sum_records(f, i);
  if (is_empty(d)) {
    store_zeros(g, i);
    return;
  }
  const Vector<float> mean = load_vector(arguments.scene.means, i);
  Projected p;
  p.view = view_position(camera, mean);
  p.shape = load_shape(arguments.scene, camera, i);
  p.projection = projection_at(camera, p.view);
  p.ellipse = ellipse_of(arguments.scene, p.shape, p.projection);
  p.footprint = footprint_of(p.ellipse, camera);

  // The exponent's derivative for the centre: conic times (pixel - centre), summed with the weights s.
  const Conic<float>& k = p.footprint.conic;
  const float d_x = fmadd(k.xx, d.sx, k.xy * d.sy) * (0.5f * static_cast<float>(camera.width));
  const float d_y = fmadd(k.xy, d.sx, k.yy * d.sy) * (0.5f * static_cast<float>(camera.height));
  store_screen(g, i, d_x, d_y);
  Vector<float> d_mean = device_position_backward(camera, device_position(camera, mean), d_x, d_y);
  Vector<float> d_view = shape_backward(arguments, i, p, d);
  const float inverse_z = 1.0f / p.view.z;
  d_view.z = fnmadd(d.channel[3] * inverse_z, inverse_z, d_view.z);
  d_mean = added(d_mean, 1.0f, view_position_backward(camera, d_view));
  if (arguments.scene.colors != nullptr) {
    store(g.colors, i, Vector<float>{d.channel[0], d.channel[1], d.channel[2]});
  } else {
    // Negative colours were replaced by 0, which is constant.
    for (int c = 0; c < 3; ++c) {
      if (f.splats[i].channel[c] <= 0.0f) d.channel[c] = 0.0f;
    }
    d_mean = added(d_mean, 1.0f, color_backward(arguments, i, mean, d.channel));
  }
  store(g.means, i, d_mean);
}
