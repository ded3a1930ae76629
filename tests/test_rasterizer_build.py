# SPDX-License-Identifier: Apache-2.0
"""The formulas compile for GPUs as they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[1] / "submodules" / "diff-gaussian-rasterization" / "native"

# Calls every formula that a kernel would, in single precision and on the device.
KERNEL = """
#include "formulas.h"
using namespace formulas;

__global__ void formulas_on_device(Camera camera, const float* in, float* out) {
  const Vector<float> mean = {in[0], in[1], in[2]};
  const Quaternion<float> stored = {in[3], in[4], in[5], in[6]};
  const Vector<float> scale = {exponential(in[7]), exponential(in[8]), exponential(in[9])};
  const Vector<float> view = view_position(camera, mean);
  const Projection<float> projection = projection_at(camera, view);
  const Rotation<float> rotation = rotation_matrix(normalised(stored));
  const Projection<float> axes = projected_axes(projection, rotation, scale);
  const Ellipse<float> ellipse = ellipse_of_axes(axes);
  const Footprint<float> footprint = footprint_of(ellipse, camera);
  const DevicePosition<float> device = device_position(camera, mean);
  const float x = pixel_coordinate(device.x, camera.width);
  const float y = pixel_coordinate(device.y, camera.height);
  const float opacity = sigmoid(in[10]) * footprint.compensation;
  const TileRectangle<float> rectangle = tile_rectangle(x, y, round_up(radius_of(footprint)), 9, 9);
  const Reach<float> reach = reach_of(footprint, x, y, opacity, camera);
  const TileRectangle<float> rows = rows_reached(reach, rectangle);
  const TileSpan<float> span = tiles_reached(reach, rows, rows.y0);

  float basis[kMaxCoefficients];
  const Vector<float> direction = direction_to(camera, mean);
  harmonics(camera.sh_degree, direction, basis);
  const Vector<float> d_direction = harmonics_backward(camera.sh_degree, direction, basis);
  const Covariance<float> d = footprint_backward(
      ellipse, footprint, Conic<float>{in[11], in[12], in[13]}, in[14], camera);
  const AxesGradient<float> d_axes =
      projected_axes_backward(projection, rotation, scale, ellipse_of_axes_backward(axes, d));
  const Quaternion<float> q = normalised_backward(
      stored, rotation_matrix_backward(normalised(stored), d_axes.rotation));
  Vector<float> d_mean = view_position_backward(
      camera, projection_backward(camera, view, d_axes.projection));
  d_mean = added(d_mean, 1.0f, device_position_backward(camera, device, in[15], in[16]));
  d_mean = added(d_mean, 1.0f, direction_backward(camera, mean, d_direction));

  const WorldCovariance<float> covariance = {in[0], in[1], in[2], in[3], in[4], in[5]};
  const Ellipse<float> other = ellipse_of_covariance(projection, covariance);
  const WorldCovariance<float> d_covariance = world_covariance_backward(projection, d);
  const Projection<float> d_other = ellipse_of_covariance_backward(projection, covariance, d);
  out[0] = d_mean.x + d_mean.y + d_mean.z + q.w + q.x + q.y + q.z + d_axes.scale.x;
  out[1] = span.begin + span.end;
  out[1] += alpha_exponent(in[0], in[1], in[2], binary_logarithm(opacity), x, y);
  out[2] = other.determinant + d_covariance.xy + d_other.u.x + power_of_two(in[3]);
}
"""


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_formulas_compile_for_gpus(architecture: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc on the PATH")
    source = tmp_path / "formulas.cu"
    source.write_text(KERNEL)
    result = subprocess.run(
        [
            *(nvcc, "-std=c++17", "--ptx", f"-arch={architecture.replace('sm', 'compute')}"),
            *(
                "-Werror",
                "all-warnings",
                f"-I{NATIVE}",
                str(source),
                "-o",
                str(tmp_path / "out.ptx"),
            ),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert ".entry" in (tmp_path / "out.ptx").read_text()
