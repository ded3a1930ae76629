// SPDX-License-Identifier: Apache-2.0
// The parameters of one Gaussian, loaded and activated.
#pragma once

#include "cuda_frame.h"

namespace cuda {

using namespace formulas;

DEVICE Vector<float> load_vector(const float* rows, int64_t i) { return {rows[3 * i], rows[3 * i + 1], rows[3 * i + 2]}; }

// Shape and opacity, activated where the scene is raw.
struct Shape {
  Quaternion<float> stored_rotation;
  Quaternion<float> rotation;
  Vector<float> scale;  // the camera's modifier included
  WorldCovariance<float> covariance;
  float opacity;
};

DEVICE Shape load_shape(const Scene& scene, const Camera& camera, int64_t i) {
  Shape shape = {};
  shape.opacity = scene.raw ? sigmoid(scene.opacities[i]) : scene.opacities[i];
  if (scene.covariances != nullptr) {
    const float* c = scene.covariances + 6 * i;
    shape.covariance = {c[0], c[1], c[2], c[3], c[4], c[5]};
    return shape;
  }
  const float* q = scene.rotations + 4 * i;
  shape.stored_rotation = {q[0], q[1], q[2], q[3]};
  shape.rotation = scene.raw ? normalised(shape.stored_rotation) : shape.stored_rotation;
  Vector<float> scale = load_vector(scene.scales, i);
  if (scene.raw) scale = {exponential(scale.x), exponential(scale.y), exponential(scale.z)};
  shape.scale = scaled(camera.scale_modifier, scale);
  return shape;
}

DEVICE Ellipse<float> ellipse_of(const Scene& scene, const Shape& shape, const Projection<float>& projection) {
  if (scene.covariances != nullptr) return ellipse_of_covariance(projection, shape.covariance);
  return ellipse_of_axes(projected_axes(projection, rotation_matrix(shape.rotation), shape.scale));
}

// Coefficient k of the harmonics, for one channel.
DEVICE float coefficient(const Scene& scene, int64_t i, int k, int channel) {
  return k == 0 ? scene.dc[i * scene.dc_stride + channel] : scene.rest[i * scene.rest_stride + 3 * (k - 1) + channel];
}

}  // namespace cuda
