# SPDX-License-Identifier: Apache-2.0
"""Leaf modules: no part of the project is imported here but `utils` itself."""
