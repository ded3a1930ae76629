# SPDX-License-Identifier: Apache-2.0
"""Post-hoc compression of trained Gaussian models: prune, fine-tune as stored, encode."""
