# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Turns an existing model's modules into those of actpack.nn.
import collections
import copy
import dataclasses
import inspect
import itertools

import torch
import torch.fx

from . import nn
from .packed import Options

_COUNTERPARTS = {
    getattr(torch.nn, name): getattr(nn, name)
    for name in ("Linear", "Conv1d", "Conv2d", "Conv3d", "BatchNorm1d", "BatchNorm2d",
                 "BatchNorm3d", "ReLU", "MaxPool2d", "LayerNorm", "GELU", "SiLU", "Dropout",
                 "Sequential")
}


def convert(model, bits=2, seed=0, replace=None, **options):
    """Makes `model` keep its activations in packed form, in place, and returns it.

    Modules of torch.nn become those of the same name in `actpack.nn` and keep their parameters,
    buffers and hooks. `replace` names counterparts for classes of your own, as in
    {YourAttention: actpack.nn.ScaledDotProductAttention}. `options` are those of `actpack.Options`.
    Modules of other classes, and operations that are not modules, stay as they are: run them inside
    `actpack.compressed`.

    A batch normalisation applies a ReLU module itself, on a shared context, if that alone reads its
    output. It overwrites a convolution's output if it alone reads that. A torch.nn.Sequential knows
    both while it runs. Elsewhere torch.fx must find all three modules among the children of one
    module, in training and in evaluation, with optional arguments and without. It does not see
    control flow that depends on values, nor code that calls the modules of such a model one by one.
    Hooks on any of the three modules keep them apart.
    """
    settings = Options(bits=bits, seed=seed, **options)
    counterparts = {**_COUNTERPARTS, **(replace or {})}
    surroundings = _surroundings_of_normalizations(model)
    for name, module in model.named_modules():
        counterpart = counterparts.get(type(module))
        if counterpart is not None:
            module.__class__ = counterpart
        if isinstance(module, nn.Compressed):
            module._options = settings
            module._name = name or None
        if isinstance(module, nn.CompressedBatchNorm):
            module.surroundings = surroundings.get(name, nn.Surroundings())
    return model


def _surroundings_of_normalizations(model):
    """The surroundings, by name, of the batch normalisations that torch.fx finds outside of any
    torch.nn.Sequential that runs as such."""
    modules = dict(model.named_modules())
    if not any(type(module) in nn.NORMALIZATIONS for module in modules.values()):
        return {}
    calls = {}
    for call in _calls(model):
        calls.setdefault(call.name, []).append(call)

    def are(names, name, classes):
        parent = name.rpartition(".")[0]
        return all(other is not None and other.rpartition(".")[0] == parent
                   and type(modules[other]) in classes for other in names)

    result = {}
    for name, calls_of_one in calls.items():
        makers = {call.maker for call in calls_of_one}
        readers = {reader for call in calls_of_one for reader in call.readers or [None]}
        overwrites_input = are(makers, name, nn.CONVOLUTIONS)
        rectifies = (are(readers, name, nn.RELUS)
                     and all(len(call.readers) == 1 for call in calls_of_one))
        neighbours = (makers if overwrites_input else set()) | (readers if rectifies else set())
        result[name] = nn.Surroundings(rectifies, overwrites_input,
                                       tuple(modules[other] for other in neighbours))
    return result


@dataclasses.dataclass
class _Call:
    """A call of the batch normalisation `name`.

    maker: the module that made its input, if nobody else reads that.
    readers: the modules that read its output. None stands for anything but a module.
    """

    name: str
    maker: str
    readers: list


def _calls(model):
    """The calls of all traces; none if training or evaluation cannot be traced."""
    calls = []
    for is_training in (True, False):
        found = None
        for with_optional in (True, False):
            try:
                traced = _trace(model, is_training, with_optional)
            except Exception:  # whatever a model's own code raises on values that are proxies
                continue
            found = (found or []) + traced
        if found is None:
            return []
        calls += found
    return calls


def _trace(model, is_training, with_optional):
    twin = _twin(model).train(is_training)
    optional = {name: parameter.default
                for name, parameter in inspect.signature(twin.forward).parameters.items()
                if parameter.default is not parameter.empty}
    tracer = _Tracer()
    graph = tracer.trace(twin, None if with_optional else optional)
    modules = dict(twin.named_modules())
    remembered = {proxy.node for module in modules.values() for proxy in _proxies(vars(module))}

    def name_of(node):
        return node.target if node.op == "call_module" else None

    calls = []
    for node in graph.nodes:
        if node.op != "call_module" or type(modules[node.target]) not in nn.NORMALIZATIONS:
            continue
        if modules.get(node.target.rpartition(".")[0]) in tracer.running:
            continue  # actpack.nn.Sequential takes care of it
        maker = node.args[0] if node.args else None
        is_alone = (isinstance(maker, torch.fx.Node) and len(maker.users) == 1
                    and maker not in remembered)
        calls.append(_Call(node.target, name_of(maker) if is_alone else None,
                           [name_of(user) for user in node.users] + [None] * (node in remembered)))
    return calls


def _twin(model):
    """A copy on the same parameters and buffers, without hooks. Tracing may change its attributes
    without touching the model's."""
    memo = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            memo[id(hooks)] = collections.OrderedDict()
    return copy.deepcopy(model, memo)


def _proxies(value):
    """The proxies in a value or in the containers that it consists of."""
    if isinstance(value, torch.fx.Proxy):
        yield value
    elif isinstance(value, (dict, list, tuple, set)):
        for element in value.values() if isinstance(value, dict) else value:
            yield from _proxies(element)


class _Tracer(torch.fx.Tracer):

    def __init__(self):
        super().__init__()
        self.running = set()  # every torch.nn.Sequential that was called as such

    def is_leaf_module(self, module, name):
        return isinstance(module, nn.Compressed) or super().is_leaf_module(module, name)

    def trace(self, root, concrete_args=None):
        self._note(root)
        return super().trace(root, concrete_args)

    def call_module(self, module, forward, arguments, keywords):
        self._note(module)
        return super().call_module(module, forward, arguments, keywords)

    def _note(self, module):
        if type(module) is torch.nn.Sequential or isinstance(module, nn.Sequential):
            self.running.add(module)
