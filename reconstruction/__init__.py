# SPDX-License-Identifier: Apache-2.0
"""From photographs to a data set for training, by COLMAP."""
