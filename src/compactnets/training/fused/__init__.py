"""Train on a CPU with kernels of our own, in which normalisation and ReLU are part of the convolutions around them.

A compact network's training step is bound by memory: a convolution, batch normalisation and ReLU, each run on its own,
read and write every activation several times. Here a convolution also returns the mean and variance of its output; the
normalisation and the ReLU are only noted (:mod:`pending`), and whatever reads the tensor next applies them to each
pixel while it reads. So an activation is written once and read once in the forward pass, and the gradient likewise.

The kernels are C (``kernels/``), compiled at the first use for this machine (:mod:`native`). They cover 1x1 and
depthwise convolutions, sums, and the statistics of any other tensor, in float32 and channels_last layout
(:mod:`functions`). Everything else is computed by torch on the finished tensor (:mod:`network`).
"""
