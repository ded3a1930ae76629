// SPDX-License-Identifier: Apache-2.0
// Every formula of the rasteriser and its derivative, once, for all processors.
//
// The functions are templates over F: `float` on a GPU, `simd::Float` (one Gaussian or pixel per lane) on a CPU. They contain
// no loops over Gaussians and no memory layout. A name d_x means dL/dx, the derivative of the loss.
//
// Sources: Kerbl et al. 2023, "3D Gaussian Splatting"; Zwicker et al. 2001, "EWA Splatting" (projection of a covariance);
// Yu et al. 2024, "Mip-Splatting" (opacity compensation); Yu et al. 2021, "PlenOctrees" (constants of the harmonics).
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define HD __host__ __device__ __forceinline__
#else
#define HD inline
#endif

// The functions of simd.h for one float.
namespace scalar {
HD float fmadd(float a, float b, float c) { return fmaf(a, b, c); }
HD float fnmadd(float a, float b, float c) { return fmaf(-a, b, c); }
HD float minimum(float a, float b) { return a < b ? a : b; }
HD float maximum(float a, float b) { return a > b ? a : b; }
HD float select(bool m, float yes, float no) { return m ? yes : no; }
HD float square_root(float a) { return sqrtf(a); }
HD float reciprocal(float a) { return 1.0f / a; }
HD float exponential(float a) { return expf(a); }
HD float power_of_two(float a) { return exp2f(a); }
HD float binary_logarithm(float a) { return log2f(a); }
HD float round_down(float a) { return floorf(a); }
HD float round_up(float a) { return ceilf(a); }
HD bool and_not(bool a, bool b) { return a && !b; }
HD float clamp(float a, float low, float high) { return minimum(maximum(a, low), high); }
}  // namespace scalar

namespace formulas {
using namespace scalar;

constexpr float kNearDepth = 0.2f;               // nearer Gaussians are not drawn
constexpr float kFrustumMargin = 1.3f;           // the projection's Jacobian is taken inside this multiple of the view
constexpr float kLeastCompensation = 2.5e-5f;    // floor of the ratio of determinants, for anti-aliasing
constexpr float kLeastEigenGap = 0.1f;           // floor under the root of the larger eigenvalue
constexpr float kRadiusSigmas = 3.0f;
constexpr float kLargestRadius = 1.0e9f;         // pixels; larger Gaussians are not drawn
constexpr float kLargestDeterminant = 1.0e37f;   // pixel^4, likewise
constexpr float kHomogeneousEpsilon = 1.0e-7f;
constexpr float kLeastNorm = 1.0e-12f;           // as torch.nn.functional.normalize
constexpr float kAlphaMax = 0.99f;
constexpr float kAlphaMin = 1.0f / 255.0f;
constexpr float kLeastTransmittance = 1.0e-4f;
constexpr float kLog2E = 1.44269504088896341f;
constexpr int kTileSize = 16;
constexpr int kMaxCoefficients = 16;             // of spherical harmonics up to degree 3

// One view. Matrices as PyTorch callers hold them: row vectors times matrix, row-major.
struct Camera {
  int32_t width, height;       // pixels
  float tan_x, tan_y;          // of half the field of view
  float centre_x, centre_y;    // camera-space x and y, over depth, of the image's centre: 0 unless off-axis
  float view[16];              // world to camera
  float projection[16];        // world to clip space
  float position[3];           // of the camera, in the world
  float background[3];
  float scale_modifier;
  int32_t sh_degree;           // that is evaluated; the storage may hold more
  int32_t antialiasing;        // bool
  float low_pass;              // pixel^2 added to both variances on the screen
  float margin;                // pixels: no sample is farther from its pixel's centre, in x and in y; 0 unless samples are moved
};

HD float focal_x(const Camera& camera) { return static_cast<float>(camera.width) / (2.0f * camera.tan_x); }
HD float focal_y(const Camera& camera) { return static_cast<float>(camera.height) / (2.0f * camera.tan_y); }

template <class F>
struct Vector {
  F x, y, z;
};

template <class F>
HD F dot(const Vector<F>& a, const Vector<F>& b) {
  return fmadd(a.x, b.x, fmadd(a.y, b.y, a.z * b.z));
}

template <class F>
HD Vector<F> scaled(F s, const Vector<F>& a) {
  return {s * a.x, s * a.y, s * a.z};
}

template <class F>
HD Vector<F> added(const Vector<F>& a, F s, const Vector<F>& b) {
  return {fmadd(s, b.x, a.x), fmadd(s, b.y, a.y), fmadd(s, b.z, a.z)};
}

template <class F>
struct Quaternion {
  F w, x, y, z;
};

// ---------------------------------------------------------------------------------------------------------------------
// Activations: raw parameters to what the renderer uses.

template <class F>
HD F sigmoid(F logit) {
  return F(1.0f) / (F(1.0f) + exponential(-logit));
}

template <class F>
HD F norm(const Quaternion<F>& q) {
  return square_root(fmadd(q.w, q.w, fmadd(q.x, q.x, fmadd(q.y, q.y, q.z * q.z))));
}

template <class F>
HD Quaternion<F> normalised(const Quaternion<F>& q) {
  const F inverse = F(1.0f) / maximum(norm(q), F(kLeastNorm));
  return {q.w * inverse, q.x * inverse, q.y * inverse, q.z * inverse};
}

// d_unit: the derivative for the normalised quaternion.
template <class F>
HD Quaternion<F> normalised_backward(const Quaternion<F>& q, const Quaternion<F>& d_unit) {
  const F length = norm(q);
  const F inverse = F(1.0f) / maximum(length, F(kLeastNorm));
  const Quaternion<F> u = normalised(q);
  const F along = fmadd(u.w, d_unit.w, fmadd(u.x, d_unit.x, fmadd(u.y, d_unit.y, u.z * d_unit.z)));
  const F removed = select(length > F(kLeastNorm), along, F(0.0f));
  return {(d_unit.w - removed * u.w) * inverse, (d_unit.x - removed * u.x) * inverse,
          (d_unit.y - removed * u.y) * inverse, (d_unit.z - removed * u.z) * inverse};
}

// ---------------------------------------------------------------------------------------------------------------------
// Where a Gaussian's centre falls.

template <class F>
HD F view_depth(const Camera& camera, const Vector<F>& p) {
  const float* m = camera.view;
  return fmadd(p.x, F(m[2]), fmadd(p.y, F(m[6]), fmadd(p.z, F(m[10]), F(m[14]))));
}

template <class F>
HD Vector<F> view_position(const Camera& camera, const Vector<F>& p) {
  const float* m = camera.view;
  return {fmadd(p.x, F(m[0]), fmadd(p.y, F(m[4]), fmadd(p.z, F(m[8]), F(m[12])))),
          fmadd(p.x, F(m[1]), fmadd(p.y, F(m[5]), fmadd(p.z, F(m[9]), F(m[13])))), view_depth(camera, p)};
}

// A derivative in camera space, turned into world space.
template <class F>
HD Vector<F> view_position_backward(const Camera& camera, const Vector<F>& d_view) {
  const float* m = camera.view;
  return {fmadd(d_view.x, F(m[0]), fmadd(d_view.y, F(m[1]), d_view.z * F(m[2]))),
          fmadd(d_view.x, F(m[4]), fmadd(d_view.y, F(m[5]), d_view.z * F(m[6]))),
          fmadd(d_view.x, F(m[8]), fmadd(d_view.y, F(m[9]), d_view.z * F(m[10])))};
}

// Normalised device coordinates and the reciprocal of the homogeneous coordinate.
template <class F>
struct DevicePosition {
  F x, y, inverse_w;
};

template <class F>
HD DevicePosition<F> device_position(const Camera& camera, const Vector<F>& p) {
  const float* m = camera.projection;
  const F x = fmadd(p.x, F(m[0]), fmadd(p.y, F(m[4]), fmadd(p.z, F(m[8]), F(m[12]))));
  const F y = fmadd(p.x, F(m[1]), fmadd(p.y, F(m[5]), fmadd(p.z, F(m[9]), F(m[13]))));
  const F w = fmadd(p.x, F(m[3]), fmadd(p.y, F(m[7]), fmadd(p.z, F(m[11]), F(m[15]))));
  const F inverse_w = F(1.0f) / (w + F(kHomogeneousEpsilon));
  return {x * inverse_w, y * inverse_w, inverse_w};
}

template <class F>
HD Vector<F> device_position_backward(const Camera& camera, const DevicePosition<F>& device, F d_x, F d_y) {
  const float* m = camera.projection;
  const F x = d_x * device.inverse_w;
  const F y = d_y * device.inverse_w;
  const F w = -fmadd(x, device.x, y * device.y);
  return {fmadd(x, F(m[0]), fmadd(y, F(m[1]), w * F(m[3]))), fmadd(x, F(m[4]), fmadd(y, F(m[5]), w * F(m[7]))),
          fmadd(x, F(m[8]), fmadd(y, F(m[9]), w * F(m[11])))};
}

// Whole numbers are pixel centres.
template <class F>
HD F pixel_coordinate(F device, int32_t size) {
  return fmadd(device + F(1.0f), F(0.5f * static_cast<float>(size)), F(-0.5f));
}

// ---------------------------------------------------------------------------------------------------------------------
// The ellipse on the screen.

// The 2 x 3 matrix (rows u and v) of the affine approximation of the projection at one point: Jacobian times rotation.
template <class F>
struct Projection {
  Vector<F> u, v;
};

// Camera-space x and y, over depth, clamped to the margin; where clamped, they are constant.
template <class F>
struct JacobianPoint {
  F x_over_z, y_over_z;
  F moves_x, moves_y;  // 1 or 0
};

template <class F>
HD JacobianPoint<F> jacobian_point(const Camera& camera, const Vector<F>& view) {
  const F inverse_z = F(1.0f) / view.z;
  const float margin_x = kFrustumMargin * camera.tan_x, margin_y = kFrustumMargin * camera.tan_y;
  const F least_x = F(camera.centre_x - margin_x), most_x = F(camera.centre_x + margin_x);
  const F least_y = F(camera.centre_y - margin_y), most_y = F(camera.centre_y + margin_y);
  const F x = view.x * inverse_z;
  const F y = view.y * inverse_z;
  const F inside_x = clamp(x, least_x, most_x);
  const F inside_y = clamp(y, least_y, most_y);
  const F one = F(1.0f), zero = F(0.0f);
  return {inside_x, inside_y, select((x <= most_x) & (least_x <= x), one, zero),
          select((y <= most_y) & (least_y <= y), one, zero)};
}

template <class F>
HD Projection<F> projection_at(const Camera& camera, const Vector<F>& view) {
  const float* m = camera.view;
  const JacobianPoint<F> point = jacobian_point(camera, view);
  const F scale_u = F(focal_x(camera)) / view.z;
  const F scale_v = F(focal_y(camera)) / view.z;
  return {{scale_u * fnmadd(point.x_over_z, F(m[2]), F(m[0])), scale_u * fnmadd(point.x_over_z, F(m[6]), F(m[4])),
           scale_u * fnmadd(point.x_over_z, F(m[10]), F(m[8]))},
          {scale_v * fnmadd(point.y_over_z, F(m[2]), F(m[1])), scale_v * fnmadd(point.y_over_z, F(m[6]), F(m[5])),
           scale_v * fnmadd(point.y_over_z, F(m[10]), F(m[9]))}};
}

// The derivative for the camera-space position, through the Jacobian only.
template <class F>
HD Vector<F> projection_backward(const Camera& camera, const Vector<F>& view, const Projection<F>& d) {
  const float* m = camera.view;
  const JacobianPoint<F> point = jacobian_point(camera, view);
  const F inverse_z = F(1.0f) / view.z;
  const F scale_u = F(focal_x(camera)) * inverse_z;
  const F scale_v = F(focal_y(camera)) * inverse_z;
  const F d_j00 = fmadd(d.u.x, F(m[0]), fmadd(d.u.y, F(m[4]), d.u.z * F(m[8])));
  const F d_j02 = fmadd(d.u.x, F(m[2]), fmadd(d.u.y, F(m[6]), d.u.z * F(m[10])));
  const F d_j11 = fmadd(d.v.x, F(m[1]), fmadd(d.v.y, F(m[5]), d.v.z * F(m[9])));
  const F d_j12 = fmadd(d.v.x, F(m[2]), fmadd(d.v.y, F(m[6]), d.v.z * F(m[10])));
  const F z_u = fnmadd(F(2.0f) * point.x_over_z, d_j02, d_j00) * scale_u;
  const F z_v = fnmadd(F(2.0f) * point.y_over_z, d_j12, d_j11) * scale_v;
  return {-point.moves_x * scale_u * inverse_z * d_j02, -point.moves_y * scale_v * inverse_z * d_j12,
          -(z_u + z_v) * inverse_z};
}

// Rows of the rotation matrix of a unit quaternion.
template <class F>
struct Rotation {
  Vector<F> row[3];
};

template <class F>
HD Rotation<F> rotation_matrix(const Quaternion<F>& q) {
  const F one = F(1.0f), two = F(2.0f);
  return {{{one - two * fmadd(q.y, q.y, q.z * q.z), two * fnmadd(q.w, q.z, q.x * q.y), two * fmadd(q.w, q.y, q.x * q.z)},
           {two * fmadd(q.w, q.z, q.x * q.y), one - two * fmadd(q.x, q.x, q.z * q.z), two * fnmadd(q.w, q.x, q.y * q.z)},
           {two * fnmadd(q.w, q.y, q.x * q.z), two * fmadd(q.w, q.x, q.y * q.z), one - two * fmadd(q.x, q.x, q.y * q.y)}}};
}

template <class F>
HD Quaternion<F> rotation_matrix_backward(const Quaternion<F>& q, const Rotation<F>& d) {
  const F two = F(2.0f);
  const Vector<F>&a = d.row[0], &b = d.row[1], &c = d.row[2];
  const F yx = b.x + a.y, zx = c.x + a.z, zy = c.y + b.z;
  const F wz = b.x - a.y, wy = a.z - c.x, wx = c.y - b.z;
  return {two * fmadd(q.z, wz, fmadd(q.y, wy, q.x * wx)),
          two * (fmadd(q.y, yx, fmadd(q.z, zx, q.w * wx)) - two * q.x * (b.y + c.z)),
          two * (fmadd(q.x, yx, fmadd(q.z, zy, q.w * wy)) - two * q.y * (a.x + c.z)),
          two * (fmadd(q.x, zx, fmadd(q.y, zy, q.w * wz)) - two * q.z * (a.x + b.y))};
}

// Covariance on the screen, pixel^2.
template <class F>
struct Covariance {
  F xx, xy, yy;
};

// The covariance before the low-pass filter, and its determinant.
template <class F>
struct Ellipse {
  Covariance<F> covariance;
  F determinant;
};

// The scaled, rotated axes of a Gaussian projected to the screen: its covariance is u.u, u.v, v.v.
template <class F>
HD Projection<F> projected_axes(const Projection<F>& projection, const Rotation<F>& rotation, const Vector<F>& scale) {
  const Vector<F>*r = rotation.row, &u = projection.u, &v = projection.v;
  return {{scale.x * fmadd(u.x, r[0].x, fmadd(u.y, r[1].x, u.z * r[2].x)),
           scale.y * fmadd(u.x, r[0].y, fmadd(u.y, r[1].y, u.z * r[2].y)),
           scale.z * fmadd(u.x, r[0].z, fmadd(u.y, r[1].z, u.z * r[2].z))},
          {scale.x * fmadd(v.x, r[0].x, fmadd(v.y, r[1].x, v.z * r[2].x)),
           scale.y * fmadd(v.x, r[0].y, fmadd(v.y, r[1].y, v.z * r[2].y)),
           scale.z * fmadd(v.x, r[0].z, fmadd(v.y, r[1].z, v.z * r[2].z))}};
}

// The determinant is the squared cross product, which is accurate for needles; xx yy - xy^2 is not.
template <class F>
HD Ellipse<F> ellipse_of_axes(const Projection<F>& axes) {
  const Vector<F>&u = axes.u, &v = axes.v;
  const Vector<F> cross = {u.y * v.z - u.z * v.y, u.z * v.x - u.x * v.z, u.x * v.y - u.y * v.x};
  return {{dot(u, u), dot(u, v), dot(v, v)}, dot(cross, cross)};
}

template <class F>
HD Projection<F> ellipse_of_axes_backward(const Projection<F>& axes, const Covariance<F>& d) {
  const F two = F(2.0f);
  return {added(scaled(two * d.xx, axes.u), d.xy, axes.v), added(scaled(two * d.yy, axes.v), d.xy, axes.u)};
}

template <class F>
struct AxesGradient {
  Projection<F> projection;
  Rotation<F> rotation;
  Vector<F> scale;
};

template <class F>
HD AxesGradient<F> projected_axes_backward(const Projection<F>& projection, const Rotation<F>& rotation,
                                           const Vector<F>& scale, const Projection<F>& d_axes) {
  const Vector<F>&u = projection.u, &v = projection.v;
  const Vector<F> du = {d_axes.u.x * scale.x, d_axes.u.y * scale.y, d_axes.u.z * scale.z};
  const Vector<F> dv = {d_axes.v.x * scale.x, d_axes.v.y * scale.y, d_axes.v.z * scale.z};
  const Vector<F>* r = rotation.row;
  AxesGradient<F> d;
  d.projection.u = {dot(du, r[0]), dot(du, r[1]), dot(du, r[2])};
  d.projection.v = {dot(dv, r[0]), dot(dv, r[1]), dot(dv, r[2])};
  d.rotation.row[0] = added(scaled(u.x, du), v.x, dv);
  d.rotation.row[1] = added(scaled(u.y, du), v.y, dv);
  d.rotation.row[2] = added(scaled(u.z, du), v.z, dv);
  const Vector<F> ur = {fmadd(u.x, r[0].x, fmadd(u.y, r[1].x, u.z * r[2].x)),
                        fmadd(u.x, r[0].y, fmadd(u.y, r[1].y, u.z * r[2].y)),
                        fmadd(u.x, r[0].z, fmadd(u.y, r[1].z, u.z * r[2].z))};
  const Vector<F> vr = {fmadd(v.x, r[0].x, fmadd(v.y, r[1].x, v.z * r[2].x)),
                        fmadd(v.x, r[0].y, fmadd(v.y, r[1].y, v.z * r[2].y)),
                        fmadd(v.x, r[0].z, fmadd(v.y, r[1].z, v.z * r[2].z))};
  d.scale = {fmadd(d_axes.u.x, ur.x, d_axes.v.x * vr.x), fmadd(d_axes.u.y, ur.y, d_axes.v.y * vr.y),
             fmadd(d_axes.u.z, ur.z, d_axes.v.z * vr.z)};
  return d;
}

// A covariance in the world, packed: xx, xy, xz, yy, yz, zz.
template <class F>
struct WorldCovariance {
  F xx, xy, xz, yy, yz, zz;
};

template <class F>
HD Vector<F> times(const WorldCovariance<F>& c, const Vector<F>& a) {
  return {fmadd(c.xx, a.x, fmadd(c.xy, a.y, c.xz * a.z)), fmadd(c.xy, a.x, fmadd(c.yy, a.y, c.yz * a.z)),
          fmadd(c.xz, a.x, fmadd(c.yz, a.y, c.zz * a.z))};
}

template <class F>
HD Ellipse<F> ellipse_of_covariance(const Projection<F>& projection, const WorldCovariance<F>& covariance) {
  const Vector<F> cu = times(covariance, projection.u);
  const Vector<F> cv = times(covariance, projection.v);
  const F xx = dot(projection.u, cu), xy = dot(projection.u, cv), yy = dot(projection.v, cv);
  return {{xx, xy, yy}, fnmadd(xy, xy, xx * yy)};
}

template <class F>
HD Projection<F> ellipse_of_covariance_backward(const Projection<F>& projection, const WorldCovariance<F>& covariance,
                                                const Covariance<F>& d) {
  const Projection<F> c = {times(covariance, projection.u), times(covariance, projection.v)};
  return ellipse_of_axes_backward(c, d);
}

// For the six packed numbers: each off-diagonal one stands for two entries of the matrix.
template <class F>
HD WorldCovariance<F> world_covariance_backward(const Projection<F>& projection, const Covariance<F>& d) {
  const Vector<F>&u = projection.u, &v = projection.v;
  const F two = F(2.0f);
  const Vector<F> du = added(scaled(d.xx, u), d.xy, v);
  const Vector<F> dv = scaled(d.yy, v);
  return {fmadd(u.x, du.x, v.x * dv.x),
          fmadd(u.x, du.y, u.y * du.x) + two * v.x * dv.y,
          fmadd(u.x, du.z, u.z * du.x) + two * v.x * dv.z,
          fmadd(u.y, du.y, v.y * dv.y),
          fmadd(u.y, du.z, u.z * du.y) + two * v.y * dv.z,
          fmadd(u.z, du.z, v.z * dv.z)};
}

// The inverse of a blurred covariance: -log(alpha / opacity) = (xx dx^2 + yy dy^2) / 2 + xy dx dy.
template <class F>
struct Conic {
  F xx, xy, yy;
};

// What is drawn: the covariance after the low-pass filter.
template <class F>
struct Footprint {
  Covariance<F> covariance;
  F determinant;
  Conic<F> conic;
  F compensation;  // factor on the opacity that compensates for the filter's blur; 1 without anti-aliasing
};

template <class F>
HD F determinant_ratio(const Ellipse<F>& ellipse, F blurred_determinant) {
  return ellipse.determinant / blurred_determinant;
}

template <class F>
HD Footprint<F> footprint_of(const Ellipse<F>& ellipse, const Camera& camera) {
  const Covariance<F>& c = ellipse.covariance;
  const F low_pass = F(camera.low_pass);
  const F determinant = ellipse.determinant + low_pass * (c.xx + c.yy + low_pass);
  const Covariance<F> blurred = {c.xx + low_pass, c.xy, c.yy + low_pass};
  const F inverse = F(1.0f) / determinant;
  F compensation = F(1.0f);
  if (camera.antialiasing != 0) {
    compensation = square_root(maximum(determinant_ratio(ellipse, determinant), F(kLeastCompensation)));
  }
  return {blurred, determinant, {blurred.yy * inverse, -blurred.xy * inverse, blurred.xx * inverse}, compensation};
}

// d_log_opacity: the derivative for the logarithm of the compensated opacity.
template <class F>
HD Covariance<F> footprint_backward(const Ellipse<F>& ellipse, const Footprint<F>& footprint, const Conic<F>& d,
                                    F d_log_opacity, const Camera& camera) {
  const Conic<F>& k = footprint.conic;
  const F two = F(2.0f);
  Covariance<F> result = {
      -fmadd(k.xx * k.xx, d.xx, fmadd(k.xx * k.xy, d.xy, k.xy * k.xy * d.yy)),
      -fmadd(two * k.xx * k.xy, d.xx, fmadd(fmadd(k.xx, k.yy, k.xy * k.xy), d.xy, two * k.xy * k.yy * d.yy)),
      -fmadd(k.xy * k.xy, d.xx, fmadd(k.xy * k.yy, d.xy, k.yy * k.yy * d.yy))};
  if (camera.antialiasing != 0) {
    const Covariance<F>& c = ellipse.covariance;
    const F w = F(camera.low_pass);
    const F ratio = determinant_ratio(ellipse, footprint.determinant);
    const F inverse = F(1.0f) / footprint.determinant;
    // log compensation = log(ratio) / 2
    const F d_ratio = select(ratio > F(kLeastCompensation), F(0.5f) * d_log_opacity / ratio, F(0.0f));
    const F s = d_ratio * w * inverse * inverse;
    const F xy2 = c.xy * c.xy;
    result.xx = fmadd(s, fmadd(c.yy, c.yy + w, xy2), result.xx);
    result.yy = fmadd(s, fmadd(c.xx, c.xx + w, xy2), result.yy);
    result.xy = fnmadd(s * two * c.xy, c.xx + c.yy + w, result.xy);
  }
  return result;
}

// Before it is rounded up to whole pixels.
template <class F>
HD F radius_of(const Footprint<F>& footprint) {
  const F middle = F(0.5f) * (footprint.covariance.xx + footprint.covariance.yy);
  const F gap = square_root(maximum(fmadd(middle, middle, -footprint.determinant), F(kLeastEigenGap)));
  return F(kRadiusSigmas) * square_root(middle + gap);
}

// ---------------------------------------------------------------------------------------------------------------------
// Which tiles it reaches with an alpha of at least kAlphaMin. The results may contain a tile too many, never one too few.

// (first, last + 1) of tile columns and rows, whole numbers.
template <class F>
struct TileRectangle {
  F x0, y0, x1, y1;
};

// The rectangle around the circle of the radius, which is whole unless samples are moved: outside it nothing is drawn, even
// where alpha would suffice.
template <class F>
HD TileRectangle<F> tile_rectangle(F x, F y, F radius, int32_t columns, int32_t rows) {
  const F per_tile = F(1.0f / kTileSize);
  const F zero = F(0.0f), last = F(static_cast<float>(kTileSize - 1));
  const F right = F(static_cast<float>(columns)), bottom = F(static_cast<float>(rows));
  return {clamp(round_down((x - radius) * per_tile), zero, right), clamp(round_down((y - radius) * per_tile), zero, bottom),
          clamp(round_down((x + radius + last) * per_tile), zero, right),
          clamp(round_down((y + radius + last) * per_tile), zero, bottom)};
}

// The ellipse on which alpha is kAlphaMin, a little enlarged, cut by horizontal lines. Tiles reach farther by the margin.
template <class F>
struct Reach {
  F x, y;               // centre, pixels
  F half_height;
  F rightmost_y;        // height above the centre of the rightmost point; the leftmost one is as far below
  F slope;              // middle of a horizontal chord at height dy: x + slope dy
  F chord, curvature;   // half of its length: sqrt(chord - curvature dy^2)
  F slack;              // pixels, for rounding, and the margin
  F margin;
};

// `opacity` is the compensated one, at least kAlphaMin.
template <class F>
HD Reach<F> reach_of(const Footprint<F>& footprint, F x, F y, F opacity, const Camera& camera) {
  const Covariance<F>& c = footprint.covariance;
  const F twice_log = F(2.0f / kLog2E) * binary_logarithm(opacity * F(255.0f));
  const F level = maximum(fmadd(twice_log, F(1.0001f), F(1.0e-3f)), F(1.0e-3f));
  const F half_width = square_root(level * c.xx);
  const F inverse_yy = F(1.0f) / c.yy;
  const F chord_per_level = footprint.determinant * inverse_yy;
  return {x, y, square_root(level * c.yy), c.xy * half_width / c.xx, c.xy * inverse_yy, chord_per_level * level,
          chord_per_level * inverse_yy, fmadd(F(1.0e-5f), half_width + maximum(x, -x), F(0.01f)) + F(camera.margin),
          F(camera.margin)};
}

// The part of the rectangle's rows that the ellipse reaches.
template <class F>
HD TileRectangle<F> rows_reached(const Reach<F>& reach, const TileRectangle<F>& within) {
  const F per_tile = F(1.0f / kTileSize);
  const F height = reach.half_height + reach.slack;
  const F top = round_up((reach.y - height - F(static_cast<float>(kTileSize - 1))) * per_tile);
  const F bottom = round_down((reach.y + height) * per_tile) + F(1.0f);
  return {within.x0, maximum(top, within.y0), within.x1, minimum(bottom, within.y1)};
}

// (first, last + 1) of the tile columns.
template <class F>
struct TileSpan {
  F begin, end;
};

template <class F>
HD TileSpan<F> tiles_reached(const Reach<F>& reach, const TileRectangle<F>& within, F row) {
  const F per_tile = F(1.0f / kTileSize), last = F(static_cast<float>(kTileSize - 1));
  const F above = row * F(static_cast<float>(kTileSize)) - reach.y;
  const F low = maximum(above - reach.margin, -reach.half_height);
  const F high = maximum(minimum(above + last + reach.margin, reach.half_height), low);
  const F right_y = clamp(reach.rightmost_y, low, high);
  const F left_y = clamp(-reach.rightmost_y, low, high);
  const F zero = F(0.0f);
  const F right_half = square_root(maximum(fnmadd(reach.curvature * right_y, right_y, reach.chord), zero));
  const F left_half = square_root(maximum(fnmadd(reach.curvature * left_y, left_y, reach.chord), zero));
  const F right = fmadd(reach.slope, right_y, reach.x) + right_half + reach.slack;
  const F left = fmadd(reach.slope, left_y, reach.x) - left_half - reach.slack;
  return {clamp(round_up((left - last) * per_tile), within.x0, within.x1),
          clamp(round_down(right * per_tile) + F(1.0f), within.x0, within.x1)};
}

// ---------------------------------------------------------------------------------------------------------------------
// Colour: real spherical harmonics up to degree 3.

constexpr float kSh0 = 0.28209479177387814f;
constexpr float kSh1 = 0.4886025119029199f;
constexpr float kSh2Xy = 1.0925484305920792f;
constexpr float kSh2Zz = 0.31539156525252005f;
constexpr float kSh2Xx = 0.5462742152960396f;
constexpr float kSh3Xxx = 0.5900435899266435f;
constexpr float kSh3Xyz = 2.890611442640554f;
constexpr float kSh3Xzz = 0.4570457994644658f;
constexpr float kSh3Zzz = 0.3731763325901154f;
constexpr float kSh3Xxz = 1.445305721320277f;

HD int coefficient_count(int degree) { return (degree + 1) * (degree + 1); }

// The basis functions in the unit direction d; writes coefficient_count(degree) values.
template <class F>
HD void harmonics(int degree, const Vector<F>& d, F* basis) {
  basis[0] = F(kSh0);
  if (degree < 1) return;
  const F x = d.x, y = d.y, z = d.z;
  basis[1] = F(-kSh1) * y;
  basis[2] = F(kSh1) * z;
  basis[3] = F(-kSh1) * x;
  if (degree < 2) return;
  const F xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  basis[4] = F(kSh2Xy) * xy;
  basis[5] = F(-kSh2Xy) * yz;
  basis[6] = F(kSh2Zz) * (zz + zz - xx - yy);
  basis[7] = F(-kSh2Xy) * xz;
  basis[8] = F(kSh2Xx) * (xx - yy);
  if (degree < 3) return;
  const F four_zz = F(4.0f) * zz;
  basis[9] = F(-kSh3Xxx) * y * (F(3.0f) * xx - yy);
  basis[10] = F(kSh3Xyz) * xy * z;
  basis[11] = F(-kSh3Xzz) * y * (four_zz - xx - yy);
  basis[12] = F(kSh3Zzz) * z * (zz + zz - F(3.0f) * (xx + yy));
  basis[13] = F(-kSh3Xzz) * x * (four_zz - xx - yy);
  basis[14] = F(kSh3Xxz) * z * (xx - yy);
  basis[15] = F(-kSh3Xxx) * x * (xx - F(3.0f) * yy);
}

// The derivative for the direction (as if its length were not fixed), where d_basis holds the derivative for
// each basis function.
template <class F>
HD Vector<F> harmonics_backward(int degree, const Vector<F>& d, const F* d_basis) {
  const F zero = F(0.0f), two = F(2.0f);
  if (degree < 1) return {zero, zero, zero};
  const F x = d.x, y = d.y, z = d.z;
  const F* g = d_basis;
  Vector<F> r = {F(-kSh1) * g[3], F(-kSh1) * g[1], F(kSh1) * g[2]};
  if (degree < 2) return r;
  const F g4 = F(kSh2Xy) * g[4], g5 = F(-kSh2Xy) * g[5], g6 = F(kSh2Zz) * two * g[6], g7 = F(-kSh2Xy) * g[7],
          g8 = F(kSh2Xx) * two * g[8];
  r.x += g4 * y - g6 * x + g7 * z + g8 * x;
  r.y += g4 * x + g5 * z - g6 * y - g8 * y;
  r.z += g5 * y + two * g6 * z + g7 * x;
  if (degree < 3) return r;
  const F xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  const F three = F(3.0f), six = F(6.0f), four = F(4.0f), eight = F(8.0f);
  const F g9 = F(-kSh3Xxx) * g[9], g10 = F(kSh3Xyz) * g[10], g11 = F(-kSh3Xzz) * g[11], g12 = F(kSh3Zzz) * g[12],
          g13 = F(-kSh3Xzz) * g[13], g14 = F(kSh3Xxz) * g[14], g15 = F(-kSh3Xxx) * g[15];
  r.x += g9 * six * xy + g10 * yz - g11 * two * xy - g12 * six * xz + g13 * (four * zz - three * xx - yy) +
         g14 * two * xz + g15 * three * (xx - yy);
  r.y += g9 * three * (xx - yy) + g10 * xz + g11 * (four * zz - xx - three * yy) - g12 * six * yz - g13 * two * xy -
         g14 * two * yz - g15 * six * xy;
  r.z += g10 * xy + g11 * eight * yz + g12 * three * (two * zz - xx - yy) + g13 * eight * xz + g14 * (xx - yy);
  return r;
}

// From the camera to p, of length one.
template <class F>
HD Vector<F> direction_to(const Camera& camera, const Vector<F>& p) {
  const Vector<F> d = {p.x - F(camera.position[0]), p.y - F(camera.position[1]), p.z - F(camera.position[2])};
  return scaled(F(1.0f) / square_root(dot(d, d)), d);
}

// d_unit: the derivative for the unit direction.
template <class F>
HD Vector<F> direction_backward(const Camera& camera, const Vector<F>& p, const Vector<F>& d_unit) {
  const Vector<F> d = {p.x - F(camera.position[0]), p.y - F(camera.position[1]), p.z - F(camera.position[2])};
  const F inverse = F(1.0f) / square_root(dot(d, d));
  const Vector<F> unit = scaled(inverse, d);
  return scaled(inverse, added(d_unit, -dot(unit, d_unit), unit));
}

// ---------------------------------------------------------------------------------------------------------------------
// Blending. The exponent is base 2 and contains the opacity: alpha = 2^(xx dx^2 + xy dx dy + yy dy^2 + log2 opacity).

template <class F>
HD F alpha_exponent(F xx, F xy, F yy, F log2_opacity, F dx, F dy) {
  return fmadd(dx, fmadd(xx, dx, xy * dy), fmadd(yy * dy, dy, log2_opacity));
}

}  // namespace formulas
