# SPDX-License-Identifier: Apache-2.0
"""The one exception that scripts turn into a one-line message and a non-zero exit."""


class InputError(Exception):
    """Input that cannot be used: the text states what was expected, what was found, and where."""
