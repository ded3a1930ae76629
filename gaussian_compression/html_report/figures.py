# SPDX-License-Identifier: Apache-2.0
"""Figures as text. What was not measured is named as such; it is never written as 0."""

from gaussian_compression.html_report.scales import signed
from gaussian_compression.rounds import Quality

NOT_MEASURED = "not measured"


def count(value: int | None) -> str:
    """A whole number with separators."""
    return NOT_MEASURED if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Bytes in a decimal unit: "649 kB", "1.12 MB"."""
    if value is None:
        return NOT_MEASURED
    if value < 1000:
        return "1 byte" if value == 1 else f"{value} bytes"
    for factor, unit in ((1e3, "kB"), (1e6, "MB"), (1e9, "GB")):
        if value < 999.5 * factor or unit == "GB":
            return f"{_three_digits(value / factor)} {unit}"
    raise AssertionError("the last unit has no upper limit")


def _three_digits(value: float) -> str:
    return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def ratio(value: float | None) -> str:
    """How many times smaller."""
    return NOT_MEASURED if value is None else f"{value:,.1f}"


def psnr(quality: Quality) -> str:
    """dB. The PSNR of equal images is infinite, and null in the report."""
    if quality.psnr is None:
        return NOT_MEASURED if quality.ssim is None else "infinite"
    return f"{quality.psnr:.3f} dB"


def ssim(quality: Quality) -> str:
    """SSIM, at most 1."""
    return NOT_MEASURED if quality.ssim is None else f"{quality.ssim:.4f}"


def change(before: float | None, after: float | None, digits: int, unit: str = "") -> str:
    """The signed difference; an empty text if one of them was not measured."""
    if before is None or after is None:
        return ""
    return signed(f"{after - before:+,.{digits}f}{unit}")


def seconds(value: float | None) -> str:
    """A duration in the two greatest units that it has."""
    if value is None:
        return NOT_MEASURED
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def number(value: float | None) -> str:
    """Any number, with three significant digits."""
    return NOT_MEASURED if value is None else f"{value:,.3g}"
