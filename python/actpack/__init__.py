# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Training with saved activations in two bits a value: `compressed` works on any model as it is;
# `convert` and the modules of `nn` need the least memory and add the least noise.
from . import nn
from ._native import has_cuda, version as __version__
from .convert import convert
from .hooks import compressed
from .packed import Options

__all__ = ["Options", "__version__", "compressed", "convert", "has_cuda", "nn"]
