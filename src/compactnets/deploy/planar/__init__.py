"""The planar engine: a network as one C file, in which exchanging channels costs nothing.

:mod:`trace` makes a graph of operations on planes from a traced deploy form, :mod:`fuse` joins what follows an
operation to it, :mod:`place` gives planes their places in one arena, :mod:`emit` writes C around the kernels in
``kernels/``, and :mod:`build` compiles it. ``docs/deploy.md`` has the whole in words.
"""
