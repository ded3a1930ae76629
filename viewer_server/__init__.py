# SPDX-License-Identifier: Apache-2.0
"""The server of the viewer's page: models, cameras and photographs on the loopback interface."""
