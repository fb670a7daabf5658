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
    {YourAttention: actpack.nn.ScaledDotProductAttention}. A batch normalisation whose output only a
    ReLU module reads shares a context with it and applies the ReLU itself, and one that is alone in
    reading a convolution's output overwrites that; to find those, the model is traced by torch.fx,
    or where it cannot be, torch.nn.Sequential is looked through. `options` are those of
    `actpack.Options`. Modules whose class is neither, and operations that are no modules, stay what
    they are: run them inside `actpack.compressed`.
    """
    settings = Options(bits=bits, seed=seed, **options)
    counterparts = {**_COUNTERPARTS, **(replace or {})}
    rectified, overwriting = _neighbours_of_normalizations(model)
    for name, module in model.named_modules():
        counterpart = counterparts.get(type(module))
        if counterpart is not None:
            module.__class__ = counterpart
        if isinstance(module, nn._Compressed):
            module.options = settings
            module.name = name or None
        if isinstance(module, nn._CompressedBatchNorm):
            module.followed_by_relu = name in rectified and settings.context == "sign_magnitude"
            module.overwrites_input = name in overwriting
    return model


_NORMALIZATIONS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


def _neighbours_of_normalizations(model):
    """The names of batch normalisations whose output goes to a ReLU module and nowhere else, and of
    those whose input comes from a convolution and goes nowhere else; wherever they are called."""
    modules = dict(model.named_modules())
    try:
        graph = torch.fx.Tracer().trace(model)
    except Exception:  # whatever a model's own code throws at values that are none
        calls = _calls_in_sequences(modules)
    else:
        calls = _calls_in_graph(graph, modules)
    calls = list(calls)
    names = {name for name, _, _ in calls}
    return ({name for name in names
             if all(_is(after, torch.nn.ReLU) for call, _, after in calls if call == name)},
            {name for name in names
             if all(_is(before, _CONVOLUTIONS) and not before[0]._forward_hooks
                    for call, before, _ in calls if call == name)})


def _is(modules, classes):
    return bool(modules) and all(isinstance(module, classes) for module in modules)


# Both yield, for each call of a batch normalisation, its name, the module that made its input, in
# a list of one, if nobody else reads that, and the modules that read its output; a None among them
# is what is no module.


def _calls_in_graph(graph, modules):

    def module_of(node):
        return modules[node.target] if node.op == "call_module" else None

    for node in graph.nodes:
        if isinstance(module_of(node), _NORMALIZATIONS):
            maker = node.args[0] if node.args else None
            is_alone = isinstance(maker, torch.fx.Node) and len(maker.users) == 1
            yield (node.target, [module_of(maker)] if is_alone else [],
                   [module_of(user) for user in node.users])


def _calls_in_sequences(modules):
    names = {}  # a shared module stands in the model repeatedly, under its first name here
    for name, module in modules.items():
        names.setdefault(module, name)
    for module in modules.values():
        if isinstance(module, torch.nn.Sequential):
            children = list(module._modules.values())
            for before, child, after in zip([None, *children], children, [*children[1:], None]):
                if isinstance(child, _NORMALIZATIONS):
                    yield names[child], [before], [after]
