# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Training with activations in two bits a value: `compressed` for any model as it is, `convert` and
# the modules of `nn` for the least memory and noise.
from . import nn
from ._native import has_cuda, version as __version__
from .convert import convert
from .hooks import compressed
from .packed import Options

__all__ = ["Options", "compressed", "convert", "has_cuda", "nn"]
