# SPDX-License-Identifier: Apache-2.0
"""Compression of trained Gaussian models: prune, fine-tune with quantisation, encode."""
