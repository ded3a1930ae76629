# SPDX-License-Identifier: Apache-2.0
"""A small ray-traced still life with its cameras and points: a data set that needs no download.

Photographs of a room are rendered in NumPy alone and written beside the COLMAP files that
describe them, so that demo and tests have a scene with textures, soft shadows, reflections and
highlights whose geometry is known exactly.

    shapes.py     where a ray meets a sphere, box, cylinder or torus
    textures.py   the painted surfaces
    room.py       the objects of the room, their places and materials
    lighting.py   light baked into the surfaces: the same in all views, without noise
    camera.py     two rings of cameras, and the photographs they take
    colmap.py     points as structure from motion would find them; the files
"""
