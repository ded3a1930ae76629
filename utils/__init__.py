# SPDX-License-Identifier: Apache-2.0
"""Leaf modules: they import nothing of the project but each other (camera_utils excepted)."""
