# SPDX-License-Identifier: Apache-2.0
"""The bar of a stage: when it reads losses, and what it shows."""

from __future__ import annotations

import pytest
from tqdm import tqdm

from utils.console_progress import ConsoleProgress


class Loss:
    """A number that notes when it is read."""

    def __init__(self, value: float, read: list[float]) -> None:
        self._value, self._read = value, read

    def __float__(self) -> float:
        self._read.append(self._value)
        return self._value


def test_losses_are_read_ten_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda bar, text, refresh: shown.append(text))
    read: list[float] = []
    with ConsoleProgress().stage("stage", 25) as advance:
        for number in range(25):
            advance(Loss(float(number), read))
            assert len(read) == 1 + number // 10 * 10
    average, averages = 0.0, [0.0]
    for value in range(1, 25):
        average = 0.6 * average + 0.4 * value
        averages.append(average)
    assert shown == [f"loss {averages[number]:.5f}" for number in (0, 10, 20)]


def test_a_stage_without_losses_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda bar, text, refresh: shown.append(text))
    with ConsoleProgress().stage("stage", 3) as advance:
        for _ in range(3):
            advance(None)
    assert not shown
