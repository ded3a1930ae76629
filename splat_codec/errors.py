# SPDX-License-Identifier: Apache-2.0
"""The codec's one error."""


class CorruptFile(ValueError):  # noqa: N818, what happened to the file is the name
    """The bytes are no valid file of this format; names the section and what is wrong with it."""

    def __init__(self, section: str, reason: str) -> None:
        super().__init__(f"corrupt file: section {section}: {reason}")
        self.section = section
        self.reason = reason

    def __reduce__(self) -> tuple[type["CorruptFile"], tuple[str, str]]:
        return CorruptFile, (self.section, self.reason)
