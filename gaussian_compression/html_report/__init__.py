# SPDX-License-Identifier: Apache-2.0
"""The report of a compression as a web page: one file, without network. No PyTorch."""
