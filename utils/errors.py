# SPDX-License-Identifier: Apache-2.0
"""The one exception that scripts turn into a one-line message and a non-zero exit."""


class InputError(Exception):
    """What the user gave cannot be used: the text says what was expected, what came, and where."""
