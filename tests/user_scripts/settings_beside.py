# SPDX-License-Identifier: Apache-2.0
"""A module beside the users' scripts, which they import as `python SCRIPT` lets them."""

RATE = 0.02
