"""The planar engine: compile a network to one C file in which exchanging channels costs nothing.

:mod:`trace` turns a deploy form into a graph of operations on planes. :mod:`fuse` fuses operations. :mod:`place`
allocates the planes in one arena. :mod:`emit` generates C around the kernels in ``kernels/``. :mod:`build` compiles it.
``docs/deploy.md`` gives an overview.
"""
