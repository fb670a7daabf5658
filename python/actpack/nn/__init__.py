# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# torch.nn's modules with packed activations. Each keeps what its backward pass needs, and no more.
#
# Unbiased rounding is safe where a backward pass is linear in what it saved: the inputs of linear
# layers and convolutions. The other modules save something in which theirs is linear, or save it
# exactly: a GELU its derivative, a ReLU its mask, max-pooling its winners. Normalisations are the
# exception. They multiply a saved value with a mean that it is part of, which costs a bias of 1 / M
# of the noise's variance for means over M values. A note on a tensor (`sharing.Shared`) lets the
# modules that need it share one packed copy.
from .activation import GELU, RELUS, ReLU, SiLU
from .attention import ScaledDotProductAttention
from .base import Compressed
from .batch_norm import (
    NORMALIZATIONS,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    CompressedBatchNorm,
    Surroundings,
)
from .convolution import CONVOLUTIONS, Conv1d, Conv2d, Conv3d
from .dropout import Dropout
from .layer_norm import LayerNorm, RMSNorm
from .linear import Linear
from .pooling import MaxPool2d
from .sequential import ConvBatchNormReLU, Sequential

__all__ = [
    "CONVOLUTIONS",
    "GELU",
    "NORMALIZATIONS",
    "RELUS",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Compressed",
    "CompressedBatchNorm",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvBatchNormReLU",
    "Dropout",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "RMSNorm",
    "ReLU",
    "ScaledDotProductAttention",
    "Sequential",
    "SiLU",
    "Surroundings",
]
