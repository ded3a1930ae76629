# SPDX-License-Identifier: Apache-2.0
"""Training and compression of a list of scenes, several at a time, on this machine or on Ray."""
