# SPDX-License-Identifier: Apache-2.0
"""What a compression records in cfg_args, so that render.py can use its outputs. No PyTorch."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from arguments import (
    CFG_ARGS_NAME,
    ModelOptions,
    amend_cfg_args,
    read_cfg_args,
    write_cfg_args,
)
from utils.errors import InputError

logger = logging.getLogger(__name__)

# The code that trained the model may lack these options; the views depend on them.
_KEPT_OPTIONS = (
    *("antialiasing", "ignore_principal_point", "skip_missing", "train_test_exp", "masks"),
)


def record_options(model_path: Path, options: ModelOptions) -> None:
    """Records the options in a folder without cfg_args.

    In a folder with cfg_args, changes only the path of the data set and options that the views
    depend on, with a notice.
    """
    if not (model_path / CFG_ARGS_NAME).exists():
        write_cfg_args(model_path, replace(options, model_path=str(model_path)))
        return
    recorded = options_of(model_path)
    changes: dict[str, str | bool] = {}
    if options.source_path and _absolute(recorded.source_path) != _absolute(options.source_path):
        changes["source_path"] = options.source_path
    for name in _KEPT_OPTIONS:
        if getattr(options, name) and not getattr(recorded, name):
            changes[name] = getattr(options, name)
    if changes:
        amend_cfg_args(model_path, changes)
    for name, value in changes.items():
        logger.info(
            "%s: %s is now %r, was %r", model_path / CFG_ARGS_NAME, name, value,
            getattr(recorded, name),
        )  # fmt: skip


def options_of(model_path: Path) -> ModelOptions:
    """The options recorded in a model folder; the defaults where there is no cfg_args."""
    try:
        return ModelOptions(**read_cfg_args(model_path))
    except FileNotFoundError:
        return ModelOptions()
    except ValueError as error:
        raise InputError(str(error)) from error


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else ""  # noqa: PTH100, keeps symlinks
