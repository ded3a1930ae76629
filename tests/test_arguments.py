# SPDX-License-Identifier: Apache-2.0
import math
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

import compress
from arguments import (
    ModelOptions,
    ModelParams,
    OptimizationOptions,
    OptimizationParams,
    PipelineParams,
    format_cfg_args,
    get_combined_args,
    parse_cfg_args,
    read_cfg_args,
    write_cfg_args,
)
from arguments.ranges import OneOf, Range, fault_of
from utils.errors import InputError

CFG_LINE = (
    "Namespace(sh_degree=3, source_path='/abs/x', model_path='out', images='images', depths='', "
    "resolution=-1, white_background=False, train_test_exp=False, data_device='cuda', eval=True, "
    "skip_missing=False, ignore_principal_point=False, image_cache_gb=0.0, masks='', "
    "antialiasing=False)"
)


def training_parser() -> tuple[ArgumentParser, ModelParams, OptimizationParams, PipelineParams]:
    parser = ArgumentParser()
    return parser, ModelParams(parser), OptimizationParams(parser), PipelineParams(parser)


def rendering_parser() -> ArgumentParser:
    parser = ArgumentParser()
    ModelParams(parser, sentinel=True)
    PipelineParams(parser)
    parser.add_argument("--iteration", default=-1, type=int)
    return parser


def test_defaults_of_all_groups_survive_the_command_line() -> None:
    parser, model, optimization, pipeline = training_parser()
    args = parser.parse_args([])
    assert model.extract(args) == ModelOptions()
    assert optimization.extract(args) == OptimizationOptions()
    off = ("convert_SHs_python", "compute_cov3D_python", "debug", "antialiasing")
    assert vars(pipeline.extract(args)) == {**dict.fromkeys(off, False), "rasterizer": "auto"}


def test_exactly_six_options_have_one_letter() -> None:
    parser, *_ = training_parser()
    letters = {o for a in parser._actions for o in a.option_strings if len(o) == 2} - {"-h"}
    assert letters == {"-s", "-m", "-i", "-d", "-r", "-w"}


def test_values_given_by_alias_and_by_abbreviation() -> None:
    parser, model, optimization, _ = training_parser()
    args = parser.parse_args(["-s", "data", "-m", "out", "-r", "2", "-w", "--iter", "7"])
    options = model.extract(args)
    assert options.source_path == str(Path("data").absolute())
    assert (options.model_path, options.resolution, options.white_background) == ("out", 2, True)
    assert optimization.extract(args).iterations == 7


def test_resolution_is_a_whole_number(capsys: pytest.CaptureFixture[str]) -> None:
    parser, *_ = training_parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["-r", "1.5"])
    assert "invalid int value" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["compute_cov3D_python", "convert_cov3D_python"])
def test_both_names_of_the_covariance_option(name: str) -> None:
    parser, _, _, pipeline = training_parser()
    assert pipeline.extract(parser.parse_args([f"--{name}"])).compute_cov3D_python


def test_cfg_args_is_the_line_that_argparse_prints(tmp_path: Path) -> None:
    options = ModelOptions(source_path="/abs/x", model_path="out", eval=True)
    assert format_cfg_args(options) == CFG_LINE
    write_cfg_args(tmp_path / "model", options)
    assert (tmp_path / "model" / "cfg_args").read_bytes() == CFG_LINE.encode()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["cfg_args"]


def test_writing_warns_of_paths_that_sibr_cannot_read(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="SIBR"):
        write_cfg_args(tmp_path, ModelOptions(source_path="/a,b"))
    assert read_cfg_args(tmp_path)["source_path"] == "/a,b"


def test_cfg_args_of_any_age_and_layout() -> None:
    old = "Namespace(eval=False, images='images_4',\n  model_path='m', sh_degree=2,\n  other=[1])\n"
    assert parse_cfg_args(old) == {
        "eval": False,
        "images": "images_4",
        "model_path": "m",
        "sh_degree": 2,
    }
    assert parse_cfg_args("Namespace()") == {}
    assert parse_cfg_args("Namespace(depths=None)") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Namespace(",
        "Namespace",
        "[1, 2]",
        "Other(eval=True)",
        "a.Namespace(eval=True)",
        "Namespace('x')",
        "Namespace(**{'eval': True})(eval=True)",
        "Namespace(eval=__import__('os').getcwd())",
        "Namespace(eval=True if 1 else False)",
        "Namespace(eval=open('x'))",
        "Namespace(eval='yes')",
        "Namespace(resolution=1.5)",
        "import os",
        "(" * 5000 + ")" * 5000,
        "Namespace(sh_degree=" + "-" * 5000 + "1)",
        "Namespace(images='\0')",
    ],
)
def test_cfg_args_with_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_cfg_args(text)


def test_command_line_overrides_cfg_args_and_those_override_defaults(tmp_path: Path) -> None:
    (tmp_path / "cfg_args").write_text("Namespace(images='images_2', resolution=4, iteration=9)")
    args = get_combined_args(rendering_parser(), ["-m", str(tmp_path), "-r", "8", "--antialiasing"])
    assert (args.images, args.resolution, args.model_path) == ("images_2", 8, str(tmp_path))
    assert args.iteration == -1, "only loading options come from cfg_args"
    assert args.antialiasing and not args.eval
    assert args.data_device == "cuda" and args.depths == ""


@pytest.mark.parametrize(
    ("allowed", "text", "inside", "outside"),
    [
        (Range(0, 3, whole=True), "a whole number from 0 to 3", (0, 3), (-1, 4)),
        (Range(least=1, whole=True), "a whole number of at least 1", (1, 10**400), (0, -(10**400))),
        (Range(above=0, below=1), "a finite number greater than 0 and less than 1", (0.5,), (0, 1)),
        (Range(above=0), "a finite number greater than 0", (1e-300, 1e300), (0.0, math.inf)),
        (Range(), "a finite number", (-1e300,), (math.nan, math.inf, -math.inf)),
        (Range(32, others=(-1, 2)), "-1, 2, or a finite number of at least 32", (2, 32), (0, 31)),
        (OneOf(("a", "b")), "a or b", ("a", "b"), ("c", "")),
    ],
)
def test_messages_state_what_is_allowed(
    allowed: Range | OneOf, text: str, inside: tuple, outside: tuple
) -> None:
    assert str(allowed) == text
    assert [fault_of("name", value, allowed) for value in inside] == [None] * len(inside)
    for value in outside:
        assert fault_of("name", value, allowed) == f"--name {value}: expected {text}"


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_antialiasing_is_recorded_in_training_and_holds_for_rendering(
    tmp_path: Path, trained: bool, given: bool
) -> None:
    parser, model, *_ = training_parser()
    options = model.extract(parser.parse_args(["--antialiasing"] if trained else []))
    write_cfg_args(tmp_path, options)
    assert read_cfg_args(tmp_path)["antialiasing"] is trained
    parser = ArgumentParser()
    model, pipeline = ModelParams(parser, sentinel=True), PipelineParams(parser)
    args = get_combined_args(parser, ["-m", str(tmp_path), *(["--antialiasing"] if given else [])])
    assert pipeline.extract(args).antialiasing is (trained or given)
    assert model.extract(args).antialiasing is (trained or given)


def test_compression_takes_antialiasing_from_the_model_folder(tmp_path: Path, command_line) -> None:
    write_cfg_args(tmp_path, ModelOptions(antialiasing=True))
    command_line("-m", tmp_path)
    parser, _, pipeline = compress.build_parser()
    assert pipeline.extract(compress.parse(parser)).antialiasing


@pytest.mark.parametrize("words", [("-r", "0"), ("-r", "-2"), ("-r", "16")])
def test_compression_checks_the_loading_options_before_anything_else(
    tmp_path: Path, command_line, words: tuple
) -> None:
    command_line("-s", tmp_path, "-m", tmp_path / "model", *words)
    with pytest.raises(InputError, match=r"--resolution -?\d+: expected -1, 1, 2, 4, 8, or a"):
        compress.main()
    assert not (tmp_path / "model").exists()


def test_without_a_model_folder_there_is_no_cfg_args() -> None:
    args = get_combined_args(rendering_parser(), [])
    assert (args.model_path, args.sh_degree) == ("", 3)


def test_other_options_without_a_value_stay() -> None:
    parser = rendering_parser()
    parser.add_argument("--start_checkpoint")
    assert get_combined_args(parser, []).start_checkpoint is None


def test_missing_and_broken_cfg_args(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError):
        get_combined_args(rendering_parser(), ["-m", str(tmp_path)])
    (tmp_path / "cfg_args").write_text("Namespace(eval=exit())")
    with pytest.raises(SystemExit):
        get_combined_args(rendering_parser(), ["-m", str(tmp_path)])
    assert "eval must be a plain constant, got " in capsys.readouterr().err


def test_light_modules_import_no_torch() -> None:
    code = (
        "import sys, arguments, utils.files, utils.cli, utils.errors, splat_formats.ply\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
