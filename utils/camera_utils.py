# SPDX-License-Identifier: Apache-2.0
"""The place where third-party code looks for the camera loader; it lives in `scene`.

Nothing in this project imports this module, so that imports keep pointing one way.
"""

from scene.camera_loading import camera_to_JSON, cameraList_from_camInfos, loadCam

__all__ = ["cameraList_from_camInfos", "camera_to_JSON", "loadCam"]
