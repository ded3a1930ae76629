# SPDX-License-Identifier: Apache-2.0
"""The convolutional trunks of VGG16 and AlexNet, with torchvision's parameter names.

Only the layers up to the last one that LPIPS compares are built. Architectures: Simonyan &
Zisserman 2015; Krizhevsky 2014 ("one weird trick"), as in torchvision (BSD-3).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

_POOL = 0


@dataclass(frozen=True)
class Trunk:
    """A network of which some inner layers are compared.

    `outputs` are the indices of those layers in `build()`, `channels` their widths, and
    `file_name` names torchvision's weights; the part after the dash begins the file's SHA-256.
    """

    build: Callable[[], nn.Sequential]
    outputs: tuple[int, ...]
    channels: tuple[int, ...]
    file_name: str


def _vgg16() -> nn.Sequential:
    widths = (64, 64, _POOL, 128, 128, _POOL, 256, 256, 256, _POOL, 512, 512, 512, _POOL)
    layers: list[nn.Module] = []
    previous = 3
    for width in (*widths, 512, 512, 512):
        if width == _POOL:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(previous, width, 3, padding=1), nn.ReLU()]
        previous = width
    return nn.Sequential(*layers)


def _alexnet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


TRUNKS = {
    "vgg": Trunk(_vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512), "vgg16-397923af.pth"),
    "alex": Trunk(_alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), "alexnet-owt-7be5be79.pth"),
}


def layer_outputs(layers: nn.Sequential, outputs: tuple[int, ...], images: Tensor) -> list[Tensor]:
    """The outputs, (N, C, h, w) each, of the layers with the indices `outputs` for `images`."""
    found = []
    for index, layer in enumerate(layers):
        images = layer(images)
        if index in outputs:
            found.append(images)
    return found
