# SPDX-License-Identifier: Apache-2.0
"""What the report contains of single views: their quality, and pictures of two of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gaussian_compression.measuring import Measuring, mean_quality, rows_of_pixels
from gaussian_compression.report import ShownView, ViewFigures, picture_name
from gaussian_compression.report_pictures import chosen_views, shown_view, view_pictures
from gaussian_compression.rounds import Quality
from gaussian_renderer.evaluation import ViewScore
from scene.cameras import Camera
from scene.raw_parameters import RawParameters


@dataclass(frozen=True)
class Scores:
    """The quality of a model on each view."""

    guard: list[ViewScore]
    test: list[ViewScore]

    def means(self) -> tuple[Quality, Quality]:
        """On the guard views and on the test views."""
        return mean_quality(self.guard), mean_quality(self.test)


@dataclass(frozen=True)
class Pictures:
    """Views with pictures, and these as files by name."""

    views: tuple[ShownView, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)


def view_figures(start: Scores, compressed: Scores) -> tuple[ViewFigures, ...]:
    """The quality of each view, of the model at the start and of the compressed one."""
    pairs = [
        *(("guard", *pair) for pair in zip(start.guard, compressed.guard, strict=True)),
        *(("test", *pair) for pair in zip(start.test, compressed.test, strict=True)),
    ]
    return tuple(
        ViewFigures(
            views,
            before.image_name,
            Quality(before.psnr, before.ssim),
            Quality(after.psnr, after.ssim),
        )
        for views, before, after in pairs
    )


def pictures_of(
    figures: Sequence[ViewFigures],
    cameras: Sequence[Camera],
    start: RawParameters,
    compressed: RawParameters,
    measure: Measuring,
) -> Pictures:
    """Pictures of the worst and of the median view; `cameras` contains both."""
    by_name = {camera.image_name: camera for camera in cameras}
    shown: list[ShownView] = []
    files: dict[str, bytes] = {}
    for role, view in chosen_views(figures).items():
        camera = by_name[view.image_name]
        pictures = view_pictures(
            rows_of_pixels(camera.image_u8),
            measure.image(camera, start),
            measure.image(camera, compressed),
        )
        shown.append(shown_view(role, view, pictures))
        files |= {picture_name(role, kind): picture for kind, picture in pictures.items()}
    return Pictures(tuple(shown), files)
