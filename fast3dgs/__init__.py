# SPDX-License-Identifier: Apache-2.0
"""The command `fast3dgs`, which runs the scripts of this project.

Installed, this package also holds them and all that they import, in the folder tree/: their
packages have names such as `scene` and `utils`, which other projects use too, so that they must not
be seen by every Python program.
"""

__version__ = "0.1.0"
