# SPDX-License-Identifier: Apache-2.0
"""`python -m fast3dgs` is the command `fast3dgs`."""

from fast3dgs.command import main

main()
