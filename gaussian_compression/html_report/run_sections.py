# SPDX-License-Identifier: Apache-2.0
"""How the result was made: command, settings, times, machine."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gaussian_compression.html_report import figures
from gaussian_compression.html_report.markup import (
    Html,
    details,
    element,
    joined,
    paragraph,
    section,
    table,
)
from gaussian_compression.report import CompressionReport


def command_and_settings(report: CompressionReport) -> Html:
    """The command, the settings that differ from the preset, and all settings."""
    content = [command(report)]
    if report.preset is None:
        content.append(paragraph("No preset is recorded in this report.", class_="weak"))
    elif report.changed_settings:
        content.append(element("h3", f"Settings that differ from the preset {report.preset}"))
        content.append(_values(report.changed_settings, "setting"))
    else:
        content.append(paragraph(f"All settings are those of the preset {report.preset}."))
    views = {name: report.identity[name] for name in _VIEW_OPTIONS if name in report.identity}
    everything = {**report.settings, "seed": report.seed, **views}
    content.append(details("All settings", _values(everything, "setting")))
    return section("Command and settings", *content)


_VIEW_OPTIONS = ("images", "resolution", "eval")


def command(report: CompressionReport) -> Html:
    """The command as it can be typed into a shell; lines are broken between arguments only."""
    if not report.command:
        return paragraph("The command was not recorded.", class_="weak")
    words = [element("span", shlex.quote(word)) for word in ("python", *report.command)]
    return element("pre", joined(words, " "))


def stages(report: CompressionReport) -> Html:
    """The time of each stage."""
    rows = [(stage.stage, stage.wall_seconds, stage.cpu_seconds) for stage in report.stages]
    rows.append(("all", _sum(wall for _, wall, _ in rows), _sum(cpu for _, _, cpu in rows)))
    cells = [(name, figures.seconds(wall), figures.seconds(cpu)) for name, wall, cpu in rows]
    content = [table(("stage", "wall time", "CPU time of all threads"), cells)]
    if note := _continuation(report):
        content.append(paragraph(note))
    return section("Times", *content)


def _sum(times: Iterable[float]) -> float:
    return sum(time for time in times if time is not None)


def _continuation(report: CompressionReport) -> str | None:
    """How long the rounds took, if an earlier run made some of them."""
    by_round = [done.wall_seconds for done in report.rounds if done.wall_seconds is not None]
    stage = next((s.wall_seconds for s in report.stages if s.stage == "rounds"), None)
    if stage is None or sum(by_round) <= stage + 0.1 * len(by_round):
        return None
    return (
        "The run continued from rounds that were made before: the stage “rounds” contains only the "
        f"time since then. All rounds together took {figures.seconds(sum(by_round))}."
    )


def machine(report: CompressionReport) -> Html:
    """Machine and versions, for each part of the run."""
    if not report.environments:
        return section("Machine and versions", paragraph("Not recorded.", class_="weak"))
    content = []
    for found in report.environments:
        rest = {name: value for name, value in found.items() if name != "from_round"}
        if len(report.environments) > 1:
            content.append(element("h3", f"From round {found.get('from_round', 0)} on"))
        content.append(_values(rest, "property"))
    return section("Machine and versions", *content)


def _values(values: Mapping[str, Any], head: str) -> Html:
    return table((head, "value"), list(flat(values)), class_="texts")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested dictionaries as names with points, and values as text."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
