# SPDX-License-Identifier: Apache-2.0
import ast
import io
import logging
import math
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate1d
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from utils import cli, logged_once, loss_utils, machine
from utils.errors import InputError
from utils.files import atomic_path, write_text
from utils.general_utils import (
    PILtoTorch,
    build_rotation,
    build_scaling_rotation,
    get_expon_lr_func,
    inverse_sigmoid,
    safe_state,
    strip_lowerdiag,
    strip_symmetric,
)
from utils.image_metrics import score_images
from utils.image_utils import load_png, mse, psnr, save_png, to_u8
from utils.interruption import Terminated, interruption
from utils.sh_utils import RGB2SH, SH2RGB, eval_sh, sh_basis
from utils.system_utils import (
    announce_data_device,
    mkdir_p,
    resolve_data_device,
    searchForMaxIteration,
)

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


def random_u8(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_the_processor_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor_name()
    (tmp_path / "cpuinfo").write_text("flags\t: fpu\nmodel name\t: A: fast one\nmodel name : B\n")
    assert machine.processor_name() == "A: fast one"


class TestFiles:
    def test_a_file_appears_whole_in_a_new_folder(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "a.png"
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            assert temporary.parent == target.parent and temporary.suffix == ".png"
            assert not target.exists()
        assert target.read_text() == "half"
        assert list(target.parent.iterdir()) == [target]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_nothing_is_left_after_a_failure(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        target = tmp_path / "a"
        target.write_text("old")
        with pytest.raises(error), atomic_path(target) as temporary:
            temporary.write_text("new")
            raise error
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]

    def test_a_failure_before_the_first_byte(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError), atomic_path(tmp_path / "a"):
            raise ValueError
        assert list(tmp_path.iterdir()) == []

    def test_text_keeps_its_line_ends(self, tmp_path: Path) -> None:
        write_text(tmp_path / "a", "é\n\r\n")
        assert (tmp_path / "a").read_bytes() == "é\n\r\n".encode()


class TestCommandLine:
    @pytest.mark.parametrize(
        ("error", "line", "code"),
        [
            (InputError("no model"), "error: no model\n", 1),
            (OSError(28, "No space left on device"), "error: disk full\n", 1),
            (OSError(28, "No space left on device", "a.ply"), "error: disk full: a.ply\n", 1),
            (FileNotFoundError(2, "No such file", "x/y"), "error: No such file: x/y\n", 1),
            (OSError("plain"), "error: plain\n", 1),
            (KeyboardInterrupt(), "interrupted\n", 130),
        ],
    )
    def test_faults_of_the_user_are_one_line(
        self, capsys: pytest.CaptureFixture[str], error: BaseException, line: str, code: int
    ) -> None:
        def main() -> None:
            raise error

        with pytest.raises(SystemExit) as end:
            cli.run(main)
        assert end.value.code == code
        assert capsys.readouterr() == ("", line)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_to_end_cleans_up_as_ctrl_c_does(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, number: signal.Signals
    ) -> None:
        def main() -> None:
            with atomic_path(tmp_path / "new" / "a") as temporary:
                temporary.write_text("half")
                signal.raise_signal(number)

        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as end:
            cli.run(main)
        assert end.value.code == 128 + number
        assert capsys.readouterr() == ("", f"ended by {number.name}\n")
        assert list(tmp_path.iterdir()) == []
        assert signal.getsignal(number) == before

    def test_a_signal_that_is_ignored_stays_so(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            cli.run(lambda: signal.raise_signal(signal.SIGHUP))
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_a_second_signal_ends_at_once(self) -> None:
        with pytest.raises(Terminated), interruption() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            signal.raise_signal(signal.SIGTERM)

    def test_no_option_may_be_abbreviated(self) -> None:
        parsers = [
            (path, node)
            for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")]
            if path.parent.name != "tests"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ArgumentParser")
        ]
        assert len(parsers) > 10
        for path, node in parsers:
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("allow_abbrev") == "False", path

    @pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes differ")])
    def test_bugs_keep_their_traceback(self, error: Exception) -> None:
        def main() -> None:
            raise error

        with pytest.raises(type(error)):
            cli.run(main)

    @pytest.mark.parametrize(
        "allocate", [lambda: torch.empty(10**15), lambda: np.empty(10**15), lambda: b"x" * 10**16]
    )
    def test_the_lack_of_memory_is_one_line(
        self, capsys: pytest.CaptureFixture[str], allocate: Callable[[], object]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            cli.run(allocate)
        assert end.value.code == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"error: not enough memory.*: smaller photographs .* need less\n", err)

    @pytest.fixture
    def root_logger(self) -> Iterator[logging.Logger]:
        root = logging.getLogger()
        handlers = list(root.handlers)
        yield root
        root.handlers = handlers

    def test_notices_go_to_stdout_and_warnings_to_stderr(
        self, root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cli.show_messages()
        cli.show_messages()
        logging.getLogger("scene.dataset_readers").info("Reading camera %d/%d", 9, 9)
        logging.getLogger("scene").warning("careful")
        assert capsys.readouterr() == ("Reading camera 9/9\n", "warning: careful\n")


class TestSphericalHarmonics:
    @staticmethod
    def directions(count: int = 50) -> np.ndarray:
        vectors = np.random.default_rng(0).normal(size=(count, 3))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    @pytest.mark.parametrize("degree", range(5))
    def test_basis_is_the_real_one_with_the_condon_shortley_phase(self, degree: int) -> None:
        x, y, z = self.directions().T
        polar, azimuth = np.arccos(z), np.arctan2(y, x)
        expected = []
        for band in range(degree + 1):
            for m in range(-band, band + 1):
                value = sph_harm_y(band, abs(m), polar, azimuth)
                part = value.imag if m < 0 else value.real
                expected.append(part * (1.0 if m == 0 else math.sqrt(2)))
        basis = sh_basis(degree, torch.from_numpy(self.directions()))
        np.testing.assert_allclose(basis, np.array(expected).T, atol=1e-12)

    def test_coefficients_beyond_the_degree_have_no_effect(self) -> None:
        directions = torch.from_numpy(self.directions(6))
        coefficients = torch.randn(6, 3, 16, dtype=torch.float64)
        values = eval_sh(1, coefficients, directions)
        assert values.shape == (6, 3)
        expected = torch.einsum("nck,nk->nc", coefficients[..., :4], sh_basis(1, directions))
        torch.testing.assert_close(values, expected)

    def test_impossible_degrees(self) -> None:
        directions = torch.tensor([[0.0, 0.0, 1.0]])
        with pytest.raises(InputError, match="0 to 4"):
            eval_sh(5, torch.zeros(1, 3, 36), directions)
        with pytest.raises(InputError, match="needs 16 coefficients"):
            eval_sh(3, torch.zeros(1, 3, 9), directions)

    def test_colours_and_coefficients(self) -> None:
        assert SH2RGB(0.0) == 0.5
        colours = torch.rand(5, 3)
        torch.testing.assert_close(SH2RGB(RGB2SH(colours)), colours)
        value = eval_sh(0, RGB2SH(colours)[..., None], torch.tensor([0.0, 0.0, 1.0]).expand(5, 3))
        torch.testing.assert_close(value + 0.5, colours)


class TestGeneral:
    def test_inverse_sigmoid(self) -> None:
        x = torch.tensor([0.01, 0.1, 0.5, 0.99])
        torch.testing.assert_close(torch.sigmoid(inverse_sigmoid(x)), x)

    def test_rotations_are_those_of_scipy_and_normalise(self) -> None:
        quaternions = torch.randn(20, 4, dtype=torch.float64)
        expected = Rotation.from_quat(np.roll(quaternions.numpy(), -1, axis=1)).as_matrix()
        np.testing.assert_allclose(build_rotation(quaternions), expected, atol=1e-12)

    def test_covariance_factors(self) -> None:
        scales, quaternions = torch.rand(5, 3), torch.randn(5, 4)
        factor = build_scaling_rotation(scales, quaternions)
        rotation = build_rotation(quaternions)
        torch.testing.assert_close(
            factor @ factor.mT, rotation @ torch.diag_embed(scales**2) @ rotation.mT
        )

    def test_upper_triangles(self) -> None:
        matrices = torch.arange(18.0).reshape(2, 3, 3)
        assert strip_lowerdiag(matrices)[0].tolist() == [0, 1, 2, 4, 5, 8]
        assert strip_symmetric(matrices)[1].tolist() == [9, 10, 11, 13, 14, 17]

    def test_learning_rate_is_log_linear(self) -> None:
        rate = get_expon_lr_func(1e-2, 1e-4, max_steps=100)
        assert rate(0) == pytest.approx(1e-2)
        assert rate(50) == pytest.approx(1e-3)
        assert rate(100) == rate(1000) == pytest.approx(1e-4)
        assert rate(-1) == 0
        assert type(rate(3)) is float

    def test_learning_rate_with_a_delay(self) -> None:
        rate = get_expon_lr_func(1.0, 1.0, lr_delay_steps=10, lr_delay_mult=0.1, max_steps=100)
        assert rate(0) == pytest.approx(0.1)
        assert rate(5) == pytest.approx(0.1 + 0.9 * math.sin(math.pi / 4))
        assert rate(10) == rate(90) == pytest.approx(1.0)

    def test_learning_rate_of_zero(self) -> None:
        assert get_expon_lr_func(0.0, 0.0)(5) == 0

    def test_images_of_pillow(self) -> None:
        image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
        assert PILtoTorch(image, (4, 2)).shape == (3, 2, 4)
        assert float(PILtoTorch(image, (4, 2))[2, 1, 3]) == pytest.approx(23 / 255)
        assert PILtoTorch(image.convert("L"), (2, 1)).shape == (1, 1, 2)

    def test_safe_state_stamps_lines_and_seeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        safe_state(False)
        first = (random.random(), np.random.rand(), float(torch.rand(1)))
        print("hello")
        safe_state(False)
        assert first == (random.random(), np.random.rand(), float(torch.rand(1)))
        print("\n[ITER 1] a", flush=True)
        stamp = r" \[\d\d/\d\d \d\d:\d\d:\d\d\]\n"
        # As the original: a line break at the beginning is not the end of a printed line.
        assert re.fullmatch(rf"hello{stamp}\n\[ITER 1\] a{stamp}", stream.getvalue())

    def test_safe_state_can_be_silent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        safe_state(True)
        print("hello")
        assert stream.getvalue() == ""


class TestSystem:
    def test_latest_iteration(self, tmp_path: Path) -> None:
        for name in ("iteration_7000", "iteration_30000", "iteration_x", "notes", ".cache_"):
            mkdir_p(tmp_path / name)
        mkdir_p(tmp_path / "notes")
        assert searchForMaxIteration(tmp_path) == 30000

    def test_no_iteration(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "missing"):
            with pytest.raises(InputError, match="iteration_<N>"):
                searchForMaxIteration(folder)

    def test_photos_stay_where_the_computation_is(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logged_once, "_logged", set())
        caplog.set_level(logging.INFO)
        gpu = torch.device("cuda", 0)
        assert resolve_data_device("cuda", CPU) == CPU
        assert resolve_data_device("cpu", gpu) == CPU
        assert resolve_data_device("cuda:1", gpu) == torch.device("cuda", 1)
        assert not caplog.records
        assert resolve_data_device("toaster", CPU) == CPU
        assert resolve_data_device("toaster", CPU) == CPU
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    def test_a_device_that_was_given_and_is_not_there_is_announced_once(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logged_once, "_logged", set())
        caplog.set_level(logging.INFO)
        for given in (None, "cpu", "toaster"):
            announce_data_device(given, CPU)
        announce_data_device("cuda:1", torch.device("cuda"))
        assert not caplog.records
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: announce_data_device("cuda", CPU), range(40)))
        [record] = caplog.records
        assert record.getMessage() == "Photos are kept on cpu: no usable cuda device"


def reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM in float64, one plane at a time, zeros outside."""
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()

    def blur(plane: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            plane = correlate1d(plane, weights, axis=axis, mode="constant")
        return plane

    means = []
    for a, b in zip(x, y, strict=True):
        mean_a, mean_b = blur(a), blur(b)
        variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        covariance = blur(a * b) - mean_a * mean_b
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        structure = (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
        means.append((luminance * structure).mean())
    return float(np.mean(means))


SIMILARITIES: list[Callable[..., torch.Tensor]] = [loss_utils.ssim, loss_utils.fast_ssim]


class TestLosses:
    def images(self, height: int = 23, width: int = 37) -> tuple[torch.Tensor, torch.Tensor]:
        x = random_u8(1, 3, height, width) / 255
        noise = random_u8(2, 3, height, width) / 255
        return x, (x + 0.3 * noise).clamp(0, 1)

    def test_l1_and_l2(self) -> None:
        x, y = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.0])
        assert float(loss_utils.l1_loss(x, y)) == 0.75
        assert float(loss_utils.l2_loss(x, y)) == 0.625

    def test_window(self) -> None:
        row = loss_utils.gaussian(11, 1.5)
        assert float(row.sum()) == pytest.approx(1)
        assert float(row[5] / row[4]) == pytest.approx(math.exp(1 / 4.5))
        window = loss_utils.create_window(11, 3)
        assert window.shape == (3, 1, 11, 11)
        torch.testing.assert_close(window[2, 0], torch.outer(row, row))

    @pytest.mark.parametrize("similarity", SIMILARITIES)
    @pytest.mark.parametrize("size", [(23, 37), (5, 4), (1, 1)])
    def test_ssim_is_that_of_float64(
        self, similarity: Callable[..., torch.Tensor], size: tuple[int, int]
    ) -> None:
        x, y = self.images(*size)
        expected = reference_ssim(x.double().numpy(), y.double().numpy())
        assert float(similarity(x, y)) == pytest.approx(expected, abs=2e-6)
        assert float(similarity(x[None], y[None])) == pytest.approx(expected, abs=2e-6)
        assert float(similarity(x, x)) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("similarity", SIMILARITIES)
    def test_gradient(self, similarity: Callable[..., torch.Tensor]) -> None:
        x, y = self.images(8, 9)
        x.requires_grad_()
        similarity(x, y).backward()
        exact = x.detach().double().requires_grad_()
        loss_utils.ssim(exact, y.double()).backward()
        assert x.grad is not None and exact.grad is not None
        torch.testing.assert_close(x.grad.double(), exact.grad, atol=1e-6, rtol=1e-4)

    def test_one_value_per_image(self) -> None:
        x, y = self.images()
        values = loss_utils.ssim(torch.stack([x, y]), torch.stack([y, y]), size_average=False)
        assert values.shape == (2,)
        assert float(values[0]) == pytest.approx(float(loss_utils.ssim(x, y)), abs=1e-6)

    def test_the_plain_version_is_used_where_nothing_faster_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, y = self.images()
        loss_utils._fused_ssim.cache_clear()
        monkeypatch.setitem(sys.modules, "fused_ssim", None)
        value = loss_utils.fast_ssim(x, y)
        loss_utils._fused_ssim.cache_clear()
        assert float(value) == float(loss_utils.ssim(x, y))


class TestImages:
    def test_psnr_per_slice(self) -> None:
        x = torch.zeros(2, 3, 4, 4)
        y = x.clone()
        y[0] += 0.1
        y[1] += 1.0
        assert mse(x, y).flatten().tolist() == pytest.approx([0.01, 1.0])
        assert psnr(x, y).flatten().tolist() == pytest.approx([20.0, 0.0], abs=1e-4)

    def test_rounding_is_that_of_saved_images(self) -> None:
        values = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 254.4 / 255, 1.0, 2.0])
        assert to_u8(values).tolist() == [0, 0, 0, 1, 254, 255, 255]
        whole = random_u8(0, 3, 4, 5)
        assert to_u8(whole) is whole
        assert torch.equal(to_u8(whole / 255), whole)

    def test_png_round_trip(self, tmp_path: Path) -> None:
        pixels = random_u8(0, 3, 7, 5)
        save_png(tmp_path / "deep" / "a.png", pixels)
        assert torch.equal(load_png(tmp_path / "deep" / "a.png"), pixels)
        save_png(tmp_path / "b.png", pixels / 255)
        assert torch.equal(load_png(tmp_path / "b.png"), pixels)

    def test_missing_png(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"a\.png is missing"):
            load_png(tmp_path / "a.png")


class TestScores:
    def test_hand_computed_psnr(self) -> None:
        black = torch.zeros(3, 16, 16, dtype=torch.uint8)
        other = black.clone()
        other[0] = 51  # a fifth of full scale in a third of the values
        value, _ = score_images(other, black)
        assert value == pytest.approx(10 * math.log10(3 * 25))

    def test_agrees_with_the_definitions(self) -> None:
        x, y = random_u8(1, 3, 31, 45), random_u8(2, 3, 31, 45)
        value, similarity = score_images(x, y)
        error = ((x.double() - y.double()) / 255).square().mean().item()
        assert value == pytest.approx(10 * math.log10(1 / error))
        expected = reference_ssim(x.double().numpy() / 255, y.double().numpy() / 255)
        assert similarity == pytest.approx(expected, abs=2e-6)

    def test_equal_images(self) -> None:
        x = random_u8(1, 3, 16, 16)
        value, similarity = score_images(x, x)
        assert value == math.inf and similarity == pytest.approx(1, abs=1e-6)

    def test_images_that_do_not_fit(self) -> None:
        x = random_u8(1, 3, 4, 6)
        with pytest.raises(InputError, match="6x4 pixels, the photo 5x4"):
            score_images(x, x[..., :5])
        with pytest.raises(InputError, match="uint8"):
            score_images(x / 255, x)
