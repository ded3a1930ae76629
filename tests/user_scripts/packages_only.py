# SPDX-License-Identifier: Apache-2.0
"""A user's training loop of 2024 on the kernel packages alone, written for CUDA.

packages_only.py OUT
"""

import math
import sys
from threading import Thread

import numpy as np
import torch
from diff_gaussian_rasterization import (
    GaussianRasterizationSettings,
    GaussianRasterizer,
    SparseGaussianAdam,
    compute_relocation,
)
from fused_ssim import fused_ssim
from simple_knn._C import distCUDA2

device = torch.device("cuda:0")
torch.cuda.set_device(0)
torch.cuda.manual_seed_all(0)
generator = torch.Generator(device="cuda").manual_seed(3)
count = 60

# The positions of a PLY are three columns: its transpose is not contiguous.
columns = np.random.default_rng(0).uniform(-0.5, 0.5, (3, count))
xyz = torch.tensor(columns.T, dtype=torch.float, device="cuda")
assert not xyz.is_contiguous()
parameters = {
    "xyz": xyz,
    "dc": torch.rand((count, 1, 3), generator=generator, device=device) - 0.5,
    "rest": torch.zeros(count, 3, 3).cuda(non_blocking=True),
    "opacity": torch.zeros((count, 1), device=0),
    "scaling": distCUDA2(xyz).sqrt().log()[:, None].repeat(1, 3).to("cuda"),
    "rotation": torch.eye(4, device="cuda:0")[:1].repeat(count, 1),
}
for tensor in parameters.values():
    tensor.requires_grad_(True)
groups = [{"params": [p], "lr": 0.02, "name": name} for name, p in parameters.items()]
optimizer = SparseGaussianAdam(groups, lr=0.0, eps=1e-15)

view = torch.eye(4)
view[3, 2] = 2.0
focal, near, far = 2.0, 0.01, 100.0
projection = torch.zeros(4, 4)
projection[0, 0] = projection[1, 1] = focal
projection[2, 2], projection[3, 2], projection[2, 3] = (
    far / (far - near),
    -far * near / (far - near),
    1.0,
)
view_2023 = {
    "image_height": 32,
    "image_width": 32,
    "tanfovx": 1 / focal,
    "tanfovy": 1 / focal,
    "bg": torch.zeros(3, device="cuda"),
    "scale_modifier": 1.0,
    "viewmatrix": view.cuda(),
    "projmatrix": (view @ projection).cuda(),
    "sh_degree": 1,
    "campos": view.inverse()[3, :3].cuda(),
    "prefiltered": False,
    "debug": False,
}
settings = GaussianRasterizationSettings(**view_2023, antialiasing=False, kernel_size=0.3)
row = torch.linspace(0, math.pi, 32, device="cuda").sin()
truth = (row[:, None] * row).expand(3, 32, 32).pin_memory().contiguous()


def draw():
    means2D = torch.zeros_like(parameters["xyz"], requires_grad=True, device="cuda") + 0
    means2D.retain_grad()
    jitter = torch.rand((32, 32, 2), dtype=torch.float32, device="cuda") - 0.5
    jittered = settings._replace(subpixel_offset=jitter)
    image, radii, inverse_depth = GaussianRasterizer(raster_settings=jittered)(
        means3D=parameters["xyz"],
        means2D=means2D,
        dc=parameters["dc"],
        shs=parameters["rest"],
        opacities=torch.sigmoid(parameters["opacity"]),
        scales=parameters["scaling"].exp(),
        rotations=torch.nn.functional.normalize(parameters["rotation"]),
    )
    assert inverse_depth.shape == (1, 32, 32)
    return image, radii


losses = []
for _ in range(15):
    image, radii = draw()
    loss = 0.8 * (image - truth).abs().mean() + 0.2 * (1 - fused_ssim(image[None], truth[None]))
    loss.backward()
    optimizer.step(radii > 0, radii.shape[0])
    optimizer.zero_grad(set_to_none=True)
    losses.append(loss.detach().cpu())
assert losses[-1] < 0.8 * losses[0], losses

# The Gaussians that contribute least are removed: the picture changes little.
shape = {
    "scales": parameters["scaling"].exp(),
    "rotations": torch.nn.functional.normalize(parameters["rotation"]),
}
opacities = torch.sigmoid(parameters["opacity"])
with torch.no_grad():
    rasterizer = GaussianRasterizer(settings)
    ones = torch.ones((32, 32), device="cuda")
    counts, weights, largest = rasterizer.importance(
        parameters["xyz"], opacities, **shape, pixel_weights=ones
    )
    assert counts.shape == weights.shape == largest.shape == (count,)
    radii = rasterizer.visible_filter(parameters["xyz"], **shape)
    assert torch.equal(radii > 0, counts > 0)
    assert rasterizer.markVisible(parameters["xyz"]).all()
    kept = weights >= weights.quantile(0.1)
    # Mip-Splatting's settings are of 2023: two values.
    mip = GaussianRasterizationSettings(
        **view_2023, kernel_size=0.1, subpixel_offset=torch.zeros((32, 32, 2), device="cuda")
    )
    images = []
    for rows in (torch.ones_like(kept), kept):
        image, radii = GaussianRasterizer(mip)(
            means3D=parameters["xyz"][rows],
            means2D=torch.zeros_like(parameters["xyz"][rows]),
            shs=torch.cat([parameters["dc"], parameters["rest"]], dim=1)[rows],
            opacities=opacities[rows],
            **{name: value[rows] for name, value in shape.items()},
        )
        images.append(image)
    assert 0 < (images[1] - images[0]).abs().mean() < 0.02
    repeated = torch.full((count,), 2, dtype=torch.int32, device="cuda")
    binomials = torch.tensor([[1.0, 0.0], [1.0, 1.0]], device="cuda")
    relocated, _ = compute_relocation(opacities, shape["scales"], repeated, binomials, 2)
    assert (relocated < opacities).all()

torch.save({name: p.detach() for name, p in parameters.items()}, sys.argv[1])
loaded = torch.load(sys.argv[1], map_location="cuda")
again = torch.load(sys.argv[1], map_location=lambda storage, place: storage.cuda(0))
assert torch.equal(loaded["xyz"], again["xyz"].cuda())


def in_a_thread(found):
    found.append(torch.zeros(3, device="cuda") + torch.ones(3).cuda())


found = []
thread = Thread(target=in_a_thread, args=(found,))
thread.start()
thread.join()
assert found[0].sum().item() == 3
print(f"losses {losses[0]:.4f} {losses[-1]:.4f}")
sys.exit(7)
