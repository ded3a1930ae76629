# SPDX-License-Identifier: Apache-2.0
"""A user's script of 2023, in this project's tree, for CUDA: its own model and options.

own_model_2023.py -s SCENE -m MODEL --iterations N
"""

import json
import os
import random
import sys
from argparse import ArgumentParser

import numpy as np
import settings_beside  # in the script's folder
import torch
from simple_knn._C import distCUDA2
from torch import nn

from arguments import ModelParams, OptimizationParams, ParamGroup
from gaussian_renderer import render
from lpipsPyTorch import lpips
from scene import Scene
from utils.image_utils import psnr
from utils.loss_utils import l1_loss, ssim
from utils.sh_utils import RGB2SH


class ExtraParams(ParamGroup):
    def __init__(self, parser):
        self.opacity_penalty = 0.01
        self._keep_log = False
        super().__init__(parser, "Parameters of this method")


class Pipe:
    convert_SHs_python = False
    compute_cov3D_python = False
    debug = False


class PointModel:
    """Isotropic Gaussians of one colour each; nothing of this project's GaussianModel."""

    def __init__(self, sh_degree):
        self.max_sh_degree = sh_degree
        self.active_sh_degree = 0
        self._xyz = torch.empty(0)

    def create_from_pcd(self, pcd, spatial_lr_scale):
        points = torch.tensor(np.asarray(pcd.points)).cuda()
        self.spatial_lr_scale = spatial_lr_scale
        self._xyz = nn.Parameter(points.float().requires_grad_(True))
        colors = RGB2SH(torch.tensor(np.asarray(pcd.colors)).float().cuda())
        self._features = nn.Parameter(colors[:, None])
        size = torch.clamp_min(distCUDA2(points), 1e-7).sqrt().log()
        self._scaling = nn.Parameter(size[:, None])
        self._opacity = nn.Parameter(torch.zeros((len(points), 1), device="cuda"))

    def load_ply(self, path):
        raise NotImplementedError(path)

    def save_ply(self, path):
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        torch.save(self.parameters(), path)

    def parameters(self):
        return [self._xyz, self._features, self._scaling, self._opacity]

    get_xyz = property(lambda self: self._xyz)
    get_features = property(lambda self: self._features)
    get_opacity = property(lambda self: torch.sigmoid(self._opacity))
    get_scaling = property(lambda self: torch.exp(self._scaling).repeat(1, 3))

    @property
    def get_rotation(self):
        rotation = torch.zeros((len(self._xyz), 4), device="cuda")
        rotation[:, 0] = 1
        return rotation


def quality(scene, gaussians, background):
    views = scene.getTestCameras()
    values = []
    for view in views:
        image = render(view, gaussians, Pipe(), background)["render"]
        truth = view.original_image.to("cuda")
        values.append(psnr(image, truth).mean().double())
    distance = lpips(image[None], truth[None], net_type="vgg").mean()
    return torch.stack(values).mean().item(), distance.item()


def main():
    parser = ArgumentParser(description="Training script parameters")
    groups = [ModelParams(parser), OptimizationParams(parser), ExtraParams(parser)]
    dataset, opt, extra = (group.extract(parser.parse_args(sys.argv[1:])) for group in groups)
    torch.cuda.set_device(torch.device("cuda:0"))
    random.seed(0)
    gaussians = PointModel(dataset.sh_degree)
    scene = Scene(dataset, gaussians)
    optimizer = torch.optim.Adam(gaussians.parameters(), lr=settings_beside.RATE, eps=1e-15)
    background = torch.tensor([0, 0, 0], dtype=torch.float32, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.no_grad():
        before, _ = quality(scene, gaussians, background)
    start.record()
    for _ in range(opt.iterations):
        view = random.choice(scene.getTrainCameras())
        package = render(view, gaussians, Pipe(), background)
        truth = view.original_image.cuda()
        loss = (1.0 - opt.lambda_dssim) * l1_loss(package["render"], truth)
        loss = loss + opt.lambda_dssim * (1.0 - ssim(package["render"], truth))
        loss = loss + extra.opacity_penalty * gaussians.get_opacity.mean()
        loss.backward()
        visible = package["visibility_filter"]
        assert package["viewspace_points"].grad[visible, :2].norm(dim=-1).isfinite().all()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    end.record()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    scene.save(opt.iterations)
    with torch.no_grad():
        after, distance = quality(scene, gaussians, background)
    print(
        json.dumps(
            {
                "before": before,
                "after": after,
                "lpips": distance,
                "milliseconds": start.elapsed_time(end),
                "keep_log": extra.keep_log,
                "eval": dataset.eval,
            }
        )
    )


if __name__ == "__main__":
    main()
