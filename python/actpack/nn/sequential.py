# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Modules in a row, of which batch normalisation must know its neighbours.
import torch

from .activation import ReLU
from .batch_norm import BatchNorm2d, CompressedBatchNorm, Surroundings
from .convolution import Conv2d


class Sequential(torch.nn.Sequential):
    """torch.nn.Sequential that tells each batch normalisation its neighbours: no one else sees what
    passes between its modules."""

    def forward(self, x):
        modules = list(self)
        for before, module, after in zip([None, *modules], modules, [*modules[1:], None]):
            if isinstance(module, CompressedBatchNorm) and isinstance(x, torch.Tensor):
                x._actpack_surroundings = Surroundings.between(before, after)
            x = module(x)
        return x


class ConvBatchNormReLU(Sequential):
    """Convolution, batch normalisation and ReLU on one context, which the next convolution reads as
    well: 3.125 bits a value at 2 bits, instead of 64. `convolution` are Conv2d's arguments."""

    def __init__(self, in_channels, out_channels, kernel_size, **convolution):
        super().__init__(
            Conv2d(in_channels, out_channels, kernel_size, **{"bias": False, **convolution}),
            BatchNorm2d(out_channels), ReLU())
