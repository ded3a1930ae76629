# SPDX-License-Identifier: Apache-2.0
"""Units of amounts of data, as in names of options and in reports: powers of ten."""

MEGABYTE = 1_000_000
GIGABYTE = 1_000_000_000
