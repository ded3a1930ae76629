# SPDX-License-Identifier: Apache-2.0
"""The error of the codec."""


class CorruptFile(ValueError):  # noqa: N818, the name states what is wrong
    """The bytes are not a valid file of this format; names the section and the damage."""

    def __init__(self, section: str, reason: str) -> None:
        super().__init__(f"corrupt file: section {section}: {reason}")
        self.section = section
        self.reason = reason

    def __reduce__(self) -> tuple[type["CorruptFile"], tuple[str, str]]:
        return CorruptFile, (self.section, self.reason)
