# SPDX-License-Identifier: Apache-2.0
"""The basis functions of real spherical harmonics, degrees 0 to 4, for arrays of any library.

The basis, with the Condon-Shortley phase, and its order are those of PlenOctrees (Yu et al. 2021),
which 3D Gaussian Splatting uses; the constants are sqrt-of-rational / pi closed forms, e.g.
C0 = 1 / (2 sqrt(pi)).
"""

from typing import Any

C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (
    1.0925484305920792,
    -1.0925484305920792,
    0.31539156525252005,
    -1.0925484305920792,
    0.5462742152960396,
)
C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)
C4 = (
    2.5033429417967046,
    -1.7701307697799304,
    0.9461746957575601,
    -0.6690465435572892,
    0.10578554691520431,
    -0.6690465435572892,
    0.47308734787878004,
    -1.7701307697799304,
    0.6258357354491761,
)


def higher_terms(degree: int, x: Any, y: Any, z: Any) -> list[Any]:
    """The values of the functions of degrees 1 to `degree` (at most 4) at unit directions, in
    order: (degree + 1)^2 - 1 of them, each shaped like x. The one of degree 0 is C0 everywhere."""
    xx, yy, zz = x * x, y * y, z * z
    xy, yz, xz = x * y, y * z, x * z
    bands = [
        lambda: [-C1 * y, C1 * z, -C1 * x],
        lambda: [
            C2[0] * xy,
            C2[1] * yz,
            C2[2] * (2 * zz - xx - yy),
            C2[3] * xz,
            C2[4] * (xx - yy),
        ],
        lambda: [
            C3[0] * y * (3 * xx - yy),
            C3[1] * xy * z,
            C3[2] * y * (4 * zz - xx - yy),
            C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            C3[4] * x * (4 * zz - xx - yy),
            C3[5] * z * (xx - yy),
            C3[6] * x * (xx - 3 * yy),
        ],
        lambda: [
            C4[0] * xy * (xx - yy),
            C4[1] * yz * (3 * xx - yy),
            C4[2] * xy * (7 * zz - 1),
            C4[3] * yz * (7 * zz - 3),
            C4[4] * (zz * (35 * zz - 30) + 3),
            C4[5] * xz * (7 * zz - 3),
            C4[6] * (xx - yy) * (7 * zz - 1),
            C4[7] * xz * (xx - 3 * yy),
            C4[8] * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
        ],
    ]
    return [value for band in bands[:degree] for value in band()]
