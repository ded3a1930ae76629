# SPDX-License-Identifier: Apache-2.0
"""The options that training, rendering and compression share, and the `cfg_args` file.

The names, types and defaults are those of Inria's command lines. Each group is a dataclass of
values; a `ParamGroup` declares one of them on an argparse parser and reads it back. `cfg_args`
is written as Inria's code writes it, and parsed, never executed. Standard library only.
"""

import argparse
import ast
import os
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from arguments.ranges import Allowed, OneOf, Range, fault_of
from utils.files import write_text

CFG_ARGS_NAME = "cfg_args"
RASTERIZERS = ("auto", "cuda", "cpu", "inria", "gswarp", "gsplat")


@dataclass
class GroupParams:
    """The values of one option group, as attributes."""

    def fault(self) -> str | None:
        """What is wrong with the first value that is not allowed; None if all are."""
        for option in fields(self):
            allowed = option.metadata.get("allowed")
            if allowed is not None:
                fault = fault_of(option.name, getattr(self, option.name), allowed)
                if fault is not None:
                    return fault
        return None


def _option(
    default: Any,
    text: str,
    *spellings: str,
    allowed: Allowed | None = None,
    unset: bool = False,
    once: bool = False,
) -> Any:
    """A dataclass field that is also an option, with further `spellings` such as "-s".

    Only `allowed` values are accepted; None: any value of the type of `default`. With `unset`, the
    option is None in the parsed arguments if it is not given. With `once`, two different values are
    an error; otherwise the last one counts.
    """
    metadata = {
        "help": text,
        "spellings": spellings,
        "allowed": allowed,
        "unset": unset,
        "once": once,
    }
    return field(default=default, metadata=metadata)


def _count(default: int, text: str, least: int = 0) -> Any:
    """An option that counts something."""
    return _option(default, text, allowed=Range(least, whole=True))


def _rate(default: float, text: str) -> Any:
    """An option that is a learning rate, a factor or a threshold."""
    return _option(default, text, allowed=Range(least=0))


def _declared_elsewhere(default: Any) -> Any:
    """A dataclass field whose option another group declares."""
    return field(default=default, metadata={"declared": False})


@dataclass
class ModelOptions(GroupParams):
    """The loading options, which `cfg_args` records."""

    sh_degree: int = _option(
        3, "highest degree of the spherical harmonics, 0 to 3", allowed=Range(0, 3, whole=True)
    )
    source_path: str = _option("", "folder of the dataset", "-s", once=True)
    model_path: str = _option("", "folder of the model", "-m", once=True)
    images: str = _option("images", "image folder inside a COLMAP dataset", "-i")
    depths: str = _option("", "folder of inverse-depth PNGs inside the dataset", "-d")
    resolution: int = _option(
        -1,
        "1, 2, 4, 8: divide width and height by it; -1: scale down to a width of 1600 pixels; 32 "
        "or more: scale down to that width, in pixels",
        "-r",
        allowed=Range(least=32, others=(-1, 1, 2, 4, 8), whole=True),
    )
    white_background: bool = _option(False, "white instead of black background", "-w")
    train_test_exp: bool = _option(
        False, "train a change of colours for each image; test images on their left half only"
    )
    data_device: str = _option("cuda", "device that holds the photographs", unset=True)
    eval: bool = _option(False, "keep test images out of training")
    skip_missing: bool = _option(False, "go on without the photographs that are missing")
    ignore_principal_point: bool = _option(
        False, "use the middle of the photographs instead, as Inria's code base does"
    )
    image_cache_gb: float = _option(
        0.0,
        "decode photographs when they are used, and keep as many as fit into this memory, in GB (a "
        "billion bytes); 0: keep all",
        allowed=Range(least=0),
    )
    masks: str = _option(
        "", "folder of masks inside the dataset: black pixels count neither in losses nor in scores"
    )
    antialiasing: bool = _declared_elsewhere(False)
    """Recorded, because a model must be rendered as it was trained; see PipelineOptions."""


@dataclass
class PipelineOptions(GroupParams):
    """How to render."""

    convert_SHs_python: bool = _option(False, "evaluate spherical harmonics in PyTorch")
    compute_cov3D_python: bool = _option(
        False, "compute 3D covariances in PyTorch", "--convert_cov3D_python"
    )
    debug: bool = _option(False, "check for errors after each call of a kernel")
    antialiasing: bool = _option(
        False, "correct opacities for the screen-space low-pass filter", unset=True
    )
    rasterizer: str = _option(
        "auto",
        "auto: Inria's package where it is installed and there is a GPU, else the CPU; cuda: this "
        "project's CUDA kernels, compiled and emulated, not yet run on a GPU; cpu; inria; or the "
        "packages gswarp or gsplat, to compare",
        allowed=OneOf(RASTERIZERS),
    )


@dataclass
class OptimizationOptions(GroupParams):
    """How to train; learning rates are per iteration, positions' in units of the scene's extent."""

    iterations: int = _count(30_000, "last iteration", least=1)
    position_lr_init: float = _rate(0.00016, "learning rate of positions at the start")
    position_lr_final: float = _rate(0.0000016, "learning rate of positions at the end")
    position_lr_delay_mult: float = _rate(0.01, "kept for compatibility, without effect")
    position_lr_max_steps: int = _count(
        30_000, "iteration of the final position learning rate", least=1
    )
    feature_lr: float = _rate(0.0025, "learning rate of colours")
    opacity_lr: float = _rate(0.025, "learning rate of opacities")
    scaling_lr: float = _rate(0.005, "learning rate of scales")
    rotation_lr: float = _rate(0.001, "learning rate of rotations")
    exposure_lr_init: float = _rate(0.01, "learning rate of exposures at the start")
    exposure_lr_final: float = _rate(0.001, "learning rate of exposures at the end")
    exposure_lr_delay_steps: int = _count(0, "iterations of the exposures' warm-up")
    exposure_lr_delay_mult: float = _rate(0.0, "first factor of the exposures' warm-up")
    percent_dense: float = _rate(0.01, "Gaussians larger than this part of the extent are split")
    lambda_dssim: float = _option(
        0.2, "weight of D-SSIM against L1 in the loss", allowed=Range(0, 1)
    )
    densification_interval: int = _count(100, "iterations between densifications", least=1)
    opacity_reset_interval: int = _count(3000, "iterations between opacity resets", least=1)
    densify_from_iter: int = _count(500, "no densification up to this iteration", least=-1)
    densify_until_iter: int = _count(15_000, "no densification from this iteration on", least=-1)
    densify_grad_threshold: float = _rate(
        0.0002, "mean screen-space gradient from which on a Gaussian is cloned or split"
    )
    depth_l1_weight_init: float = _rate(1.0, "weight of the depth loss at the start")
    depth_l1_weight_final: float = _rate(0.01, "weight of the depth loss at the end")
    random_background: bool = _option(False, "another random background colour in each iteration")
    optimizer_type: str = _option(
        "default", "default or sparse_adam", allowed=OneOf(("default", "sparse_adam"))
    )

    def fault(self) -> str | None:
        """As in GroupParams; the two ends of a schedule are both 0, or both greater."""
        if fault := super().fault():
            return fault
        for name in ("position_lr", "exposure_lr", "depth_l1_weight"):
            first, last = getattr(self, f"{name}_init"), getattr(self, f"{name}_final")
            if (first == 0) != (last == 0):
                return (
                    f"--{name}_init {first} and --{name}_final {last}: expected both to be 0, or "
                    "both to be greater than 0"
                )
        return None


Options = TypeVar("Options", bound=GroupParams)


class ParamGroup(Generic[Options]):
    """An option group declared on `parser`.

    With `sentinel` every option that is not given is None, so that `get_combined_args` can take its
    value from `cfg_args`.

    A subclass may set attributes before it calls this `__init__`, or that of a subclass: these are
    further options with these defaults. One whose name begins with `_` has no `_` in its name, but
    its first letter as a second spelling. A group of such options only is made with `(parser,
    title)`, or `(parser, title, sentinel)`.
    """

    def __init__(
        self,
        parser: ArgumentParser,
        options: type[Options] | str,
        title: str | bool = False,
        sentinel: bool = False,
    ):
        added = dict(vars(self))
        if isinstance(options, str):
            # `GroupParams` itself holds the values of a group that has no class of options.
            options, title, sentinel = GroupParams, options, bool(title)  # type: ignore[assignment]
        self.__options: type[Any] = options  # type: ignore[assignment]
        self.__added = {name.removeprefix("_"): default for name, default in added.items()}
        group = parser.add_argument_group(str(title))
        for option in fields(self.__options):
            if option.metadata.get("declared", True):
                _declare(group, option, sentinel or option.metadata["unset"])
        for name, default in added.items():
            _declare_added(group, name, default, sentinel)

    def extract(self, args: Namespace) -> Options:
        """This group's values in parsed `args`; defaults where absent or None."""
        given = {
            option.name: getattr(args, option.name)
            for option in fields(self.__options)
            if getattr(args, option.name, None) is not None
        }
        values = self.__options(**given)
        for name, default in self.__added.items():
            found = getattr(args, name, None)
            setattr(values, name, default if found is None else found)
        return values


class ModelParams(ParamGroup[ModelOptions]):
    """The loading options."""

    def __init__(self, parser: ArgumentParser, sentinel: bool = False):
        super().__init__(parser, ModelOptions, "Loading Parameters", sentinel)

    def extract(self, args: Namespace) -> ModelOptions:
        """The loading options in parsed `args`, with an absolute `source_path`."""
        values = super().extract(args)
        if values.source_path:
            values.source_path = os.path.abspath(values.source_path)  # noqa: PTH100, keeps symlinks
        return values


class PipelineParams(ParamGroup[PipelineOptions]):
    """The rendering options."""

    def __init__(self, parser: ArgumentParser):
        super().__init__(parser, PipelineOptions, "Pipeline Parameters")


class OptimizationParams(ParamGroup[OptimizationOptions]):
    """The training options."""

    def __init__(self, parser: ArgumentParser):
        super().__init__(parser, OptimizationOptions, "Optimization Parameters")


def _declare(group: Any, option: Field[Any], sentinel: bool) -> None:
    spellings = [f"--{option.name}"]
    for spelling in option.metadata.get("spellings", ()):
        # A single letter comes first: argparse shows the spellings in this order.
        spellings.insert(0 if len(spelling) == 2 else len(spellings), spelling)
    default = None if sentinel else option.default
    common = {"dest": option.name, "default": default, "help": option.metadata.get("help")}
    if isinstance(option.default, bool):
        group.add_argument(*spellings, action="store_true", **common)
    else:
        action = _StoreOnce if option.metadata["once"] else "store"
        group.add_argument(*spellings, type=type(option.default), action=action, **common)


def _declare_added(group: Any, name: str, default: Any, sentinel: bool) -> None:
    """Declare an option that a subclass of `ParamGroup` set as an attribute."""
    plain = name.removeprefix("_")
    spellings = [f"-{plain[0]}", f"--{plain}"] if plain != name else [f"--{plain}"]
    unset = None if sentinel else default
    if isinstance(default, bool):
        group.add_argument(*spellings, dest=plain, default=unset, action="store_true")
    elif default is None:
        group.add_argument(*spellings, dest=plain, default=None)
    else:
        group.add_argument(*spellings, dest=plain, default=unset, type=type(default))


class _StoreOnce(argparse.Action):
    """Stores the value; a second, different one is an error."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None
    ) -> None:
        present = getattr(namespace, self.dest)
        if present not in (self.default, values):
            raise argparse.ArgumentError(
                self, f"expected one value, but {present} and {values} are given"
            )
        setattr(namespace, self.dest, values)


def get_combined_args(parser: ArgumentParser, argv: Sequence[str] | None = None) -> Namespace:
    """Each value from the command line, else from the model folder's `cfg_args`, else the default.

    `argv` defaults to the program's own arguments. Without `--model_path` no `cfg_args` is read. A
    missing file raises `FileNotFoundError`, unless `--source_path` is given, the only option that
    has no default; a file that cannot be parsed ends the program through `parser.error`.
    """
    parsed = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
    given = {name: value for name, value in parsed.items() if value is not None}
    recorded: dict[str, Any] = {}
    if given.get("model_path"):
        try:
            recorded = read_cfg_args(given["model_path"], parsed)
        except FileNotFoundError:
            if not given.get("source_path"):
                raise
        except ValueError as error:
            parser.error(str(error))
    return Namespace(**{**parsed, **asdict(ModelOptions()), **recorded, **given})


def read_cfg_args(
    model_path: str | os.PathLike[str], others: Collection[str] = ()
) -> dict[str, Any]:
    """The loading options recorded in a model folder, and those of the `others` that are recorded.

    Raises `FileNotFoundError` without the file and `ValueError` if its text is not of the form
    `Namespace(name=value, ...)` with the types of `ModelOptions`.
    """
    path = Path(model_path) / CFG_ARGS_NAME
    try:
        return parse_cfg_args(path.read_text(encoding="utf-8"), others)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_cfg_args(text: str, others: Collection[str] = ()) -> dict[str, Any]:
    """The loading options and `others` in `text`, which is read as Python source, never executed.

    The `others`, which subclasses of `ModelParams` add, may be of any type.
    """
    defaults = asdict(ModelOptions())
    values = {
        name: _literal(text, keyword, type(defaults.get(name)))
        for keyword in _recorded(text)
        if (name := keyword.arg or "") in defaults or name in others
    }
    return {name: value for name, value in values.items() if value is not None}


def _recorded(text: str) -> list[ast.keyword]:
    """Names and values in the text of `cfg_args`."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"expected Namespace(name=value, ...), got {_excerpt(text)}") from error
    if (
        not isinstance(call, ast.Call)
        or not isinstance(call.func, ast.Name)
        or call.func.id != "Namespace"
        or call.args
    ):
        raise ValueError(f"expected Namespace(name=value, ...), got {_excerpt(text)}")
    return call.keywords


def _literal(text: str, keyword: ast.keyword, expected: type) -> Any:
    try:
        value = ast.literal_eval(keyword.value)
    except (ValueError, RecursionError) as error:
        found = _excerpt(ast.get_source_segment(text.strip(), keyword.value) or "")
        raise ValueError(f"{keyword.arg} must be a plain constant, got {found}") from error
    if value is not None and expected not in (type(value), type(None)):
        raise ValueError(f"{keyword.arg} must be of type {expected.__name__}, got {value!r}")
    return value


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


def format_cfg_args(options: ModelOptions | Mapping[str, Any]) -> str:
    """The one line that `cfg_args` holds for `options`."""
    # Not `asdict`: subclasses of `ModelParams` add attributes.
    values = dict(vars(options) if isinstance(options, ModelOptions) else options)
    return repr(argparse.Namespace(**values))


def write_cfg_args(
    model_path: str | os.PathLike[str], options: ModelOptions | Mapping[str, Any]
) -> None:
    """Records `options` in the model folder, whole or not at all."""
    text = format_cfg_args(options)
    source_path = str(getattr(options, "source_path", ""))
    if "," in source_path or ")" in source_path:
        warnings.warn(
            f"the SIBR viewers cannot read a source path with ',' or ')': {source_path}",
            stacklevel=2,
        )
    write_text(Path(model_path) / CFG_ARGS_NAME, text)


def amend_cfg_args(model_path: str | os.PathLike[str], changes: Mapping[str, Any]) -> None:
    """Replaces these values in the model folder's `cfg_args`; all others stay."""
    path = Path(model_path) / CFG_ARGS_NAME
    recorded = {k.arg: ast.unparse(k.value) for k in _recorded(path.read_text(encoding="utf-8"))}
    recorded |= {name: repr(value) for name, value in changes.items()}
    write_text(path, f"Namespace({', '.join(f'{k}={v}' for k, v in recorded.items())})")
