# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# An existing model's modules, turned into those of nn.py.
import torch
import torch.fx

from . import nn
from .packed import Options

_COUNTERPARTS = {
    getattr(torch.nn, name): getattr(nn, name)
    for name in ("Linear", "Conv1d", "Conv2d", "Conv3d", "BatchNorm1d", "BatchNorm2d",
                 "BatchNorm3d", "ReLU", "MaxPool2d", "LayerNorm", "GELU", "SiLU", "Dropout")
}


def convert(model, bits=2, seed=0, replace=None, **options):
    """Makes `model` keep its activations in packed form, in place, and returns it.

    Modules of torch.nn become those of the same name in `actpack.nn`, with the parameters, buffers
    and hooks that they have; `replace` names counterparts for classes of your own, as
    {YourAttention: actpack.nn.ScaledDotProductAttention}. A normalisation whose output only a ReLU
    module reads shares a context with it and applies the ReLU itself; to find those, the model is
    traced by torch.fx, or where it cannot be, torch.nn.Sequential is looked through. `options` are
    those of `actpack.Options`. Modules whose class is neither, and operations that are no modules,
    stay what they are: run them inside `actpack.compressed`.
    """
    settings = Options(bits=bits, seed=seed, **options)
    counterparts = {**_COUNTERPARTS, **(replace or {})}
    rectified = _normalizations_before_relu(model)
    for name, module in model.named_modules():
        counterpart = counterparts.get(type(module))
        if counterpart is not None:
            module.__class__ = counterpart
        if isinstance(module, nn._Compressed):
            module.options = settings
            module.name = name or None
        if isinstance(module, nn._CompressedBatchNorm):
            module.followed_by_relu = name in rectified and settings.context == "sign_magnitude"
    return model


_NORMALIZATIONS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


def _normalizations_before_relu(model):
    """The names of batch normalisations whose output goes to a ReLU module and nowhere else."""
    modules = dict(model.named_modules())
    try:
        graph = torch.fx.Tracer().trace(model)
    except Exception:  # whatever a model's own code throws at values that are none
        return _normalizations_before_relu_in_sequences(modules)
    names, others = set(), set()
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], _NORMALIZATIONS):
            is_rectified = all(user.op == "call_module"
                               and isinstance(modules[user.target], torch.nn.ReLU)
                               for user in node.users)
            (names if is_rectified else others).add(node.target)
    return names - others


def _normalizations_before_relu_in_sequences(modules):
    rectified, others = set(), set()
    for module in modules.values():
        if isinstance(module, torch.nn.Sequential):
            children = list(module._modules.values())  # a shared module stands there repeatedly
            for first, second in zip(children, [*children[1:], None]):
                if isinstance(first, _NORMALIZATIONS):
                    (rectified if isinstance(second, torch.nn.ReLU) else others).add(first)
    return {name for name, module in modules.items() if module in rectified - others}
