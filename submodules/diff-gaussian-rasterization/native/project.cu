// SPDX-License-Identifier: Apache-2.0
// From parameters to what is blended: one thread a Gaussian.
#include "cuda_frame.h"

#include "cuda_shape.h"

using namespace cuda;

struct ProjectArguments {
  Frame frame;
  Scene scene;
};

DEVICE void store_colour(const ProjectArguments& a, int64_t i, const Vector<float>& mean, Splat& splat) {
  const Scene& scene = a.scene;
  if (scene.colors != nullptr) {
    for (int c = 0; c < 3; ++c) splat.channel[c] = scene.colors[3 * i + c];
    return;
  }
  const Camera& camera = a.frame.camera;
  const int count = coefficient_count(camera.sh_degree);
  float basis[kMaxCoefficients];
  harmonics(camera.sh_degree, direction_to(camera, mean), basis);
  for (int c = 0; c < 3; ++c) {
    float value = 0.5f;
#pragma unroll
    for (int k = 0; k < kMaxCoefficients; ++k) {
      if (k < count) value = fmadd(basis[k], coefficient(scene, i, k, c), value);
    }
    splat.channel[c] = maximum(0.0f, value);  // NaN is kept
  }
}

DEVICE uint32_t count_tiles(const TileReach& r) {
  uint32_t count = 0;
  for (int row = r.y0; row < r.y1; ++row) {
    const TileSpan<float> span = tiles_reached(r.reach, rectangle_of(r), static_cast<float>(row));
    count += static_cast<uint32_t>(greatest(static_cast<int>(span.end) - static_cast<int>(span.begin), 0));
  }
  return count;
}

KERNEL(project_gaussians, 128, ProjectArguments) {
  const Frame& f = arguments.frame;
  const Camera& camera = f.camera;
  const int64_t i = global_thread();
  if (i >= f.count) return;
  f.radii[i] = 0;
  f.tile_counts[i] = 0;
  f.depths[i] = kNotDrawn;
  const Vector<float> mean = load_vector(arguments.scene.means, i);
  if (!(view_depth(camera, mean) > kNearDepth)) return;

  const Vector<float> view = view_position(camera, mean);
  const Shape shape = load_shape(arguments.scene, camera, i);
  const Ellipse<float> ellipse = ellipse_of(arguments.scene, shape, projection_at(camera, view));
  const Footprint<float> footprint = footprint_of(ellipse, camera);
  const DevicePosition<float> device = device_position(camera, mean);
  const float x = pixel_coordinate(device.x, camera.width), y = pixel_coordinate(device.y, camera.height);
  const float radius = round_up(radius_of(footprint));
  const TileRectangle<float> rectangle = tile_rectangle(x, y, radius + camera.margin, f.columns, f.rows);
  const bool visible = radius <= kLargestRadius && 0.0f < footprint.determinant &&
                       footprint.determinant <= kLargestDeterminant && rectangle.x0 < rectangle.x1 &&
                       rectangle.y0 < rectangle.y1;
  if (!visible) return;
  f.radii[i] = static_cast<int32_t>(radius);

  const float opacity = shape.opacity * footprint.compensation;
  if (!(kAlphaMin <= opacity)) return;
  const Reach<float> reach = reach_of(footprint, x, y, opacity, camera);
  const TileRectangle<float> rows = rows_reached(reach, rectangle);
  if (!(rows.y0 < rows.y1)) return;
  const TileReach tiles = {reach, static_cast<uint16_t>(rows.x0), static_cast<uint16_t>(rows.y0),
                           static_cast<uint16_t>(rows.x1), static_cast<uint16_t>(rows.y1)};
  const uint32_t count = count_tiles(tiles);
  if (count == 0) return;
  f.tile_counts[i] = count;
  f.reaches[i] = tiles;
  f.depths[i] = __float_as_uint(view.z);
  const Conic<float>& k = footprint.conic;
  const float half = -0.5f * kLog2E;
  Splat splat = {x, y, half * k.xx, -kLog2E * k.xy, half * k.yy, binary_logarithm(opacity), {}, {}};
  store_colour(arguments, i, mean, splat);
  splat.channel[3] = 1.0f / view.z;
  f.splats[i] = splat;
}

struct VisibleArguments {
  Camera camera;
  const float* means;
  int64_t count;
  uint8_t* visible;
};

// Whether each point lies beyond the near plane.
KERNEL(mark_visible, 256, VisibleArguments) {
  const int64_t i = global_thread();
  if (i >= arguments.count) return;
  arguments.visible[i] = view_depth(arguments.camera, load_vector(arguments.means, i)) > kNearDepth;
}
