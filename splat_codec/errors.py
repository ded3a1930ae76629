# SPDX-License-Identifier: Apache-2.0
"""The error of the codec."""

_NOT_SECTIONS = ("header", "section table")
"""The parts of a file that are before its sections."""


class CorruptFile(ValueError):  # noqa: N818, the name states what is wrong
    """The bytes are not a valid file of this format; names the section and the damage."""

    def __init__(self, section: str, reason: str) -> None:
        place = section if section in _NOT_SECTIONS else f"section {section}"
        super().__init__(f"corrupt file: {place}: {reason}")
        self.section = section
        self.reason = reason

    def __reduce__(self) -> tuple[type["CorruptFile"], tuple[str, str]]:
        return CorruptFile, (self.section, self.reason)
