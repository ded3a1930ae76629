# SPDX-License-Identifier: Apache-2.0
"""The parts of LPIPS: the network trunks, the weight files, the distance."""
