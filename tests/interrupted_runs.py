# SPDX-License-Identifier: Apache-2.0
"""Runs of the pipeline that end by Ctrl-C at a chosen moment."""

import pytest

from gaussian_compression import pipeline


def stop_after(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run ends by Ctrl-C when it has saved this round."""
    save = pipeline.RoundFolder.save

    def save_and_stop(self: pipeline.RoundFolder, checkpoint: pipeline.Checkpoint) -> None:
        save(self, checkpoint)
        if checkpoint.rounds[-1].number == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.RoundFolder, "save", save_and_stop)
