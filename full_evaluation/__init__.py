# SPDX-License-Identifier: Apache-2.0
"""The scenes of the published tables: trained, compressed, rendered and measured one by one."""
