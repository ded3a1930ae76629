# SPDX-License-Identifier: Apache-2.0
"""The camera loader of `scene`, under the module name that third-party code imports.

Nothing in this project imports this module, so that imports keep pointing one way.
"""

from scene.camera_loading import camera_to_JSON, cameraList_from_camInfos, loadCam

__all__ = ["cameraList_from_camInfos", "camera_to_JSON", "loadCam"]
