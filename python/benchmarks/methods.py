# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""The methods that are compared, and the training step that is the same for all of them."""
import contextlib
import dataclasses
import enum

import models
import torch
from torch.utils.checkpoint import checkpoint


class Keeping(enum.Enum):
    """The tensors that stay between the forward and the backward pass."""

    EVERYTHING = enum.auto()   # what PyTorch saves
    CHECKPOINTS = enum.auto()  # the input of every block, which then runs again
    ACTNN = enum.auto()        # each operation's own rounded copy of its input, decoded plainly
    HOOKS = enum.auto()        # what PyTorch saves, packed, for an unchanged model
    CONVERTED = enum.auto()    # one context for each chain of operations


@dataclasses.dataclass(frozen=True)
class Method:
    name: str
    title: str
    keeping: Keeping
    is_amp: bool = False  # mixed precision: bfloat16 by autocast


METHODS = {
    method.name: method
    for method in (
        Method("full", "full precision", Keeping.EVERYTHING),
        Method("amp", "AMP", Keeping.EVERYTHING, is_amp=True),
        Method("checkpointing", "checkpointing", Keeping.CHECKPOINTS),
        Method("checkpointing-amp", "checkpointing + AMP", Keeping.CHECKPOINTS, is_amp=True),
        Method("actnn", "ActNN's way", Keeping.ACTNN),
        Method("hooks", "actpack, hooks", Keeping.HOOKS),
        Method("actpack", "actpack, converted", Keeping.CONVERTED),
        Method("actpack-amp", "actpack, converted + AMP", Keeping.CONVERTED, is_amp=True),
    )
}

BASELINE = METHODS["full"]


class Checkpointed(torch.nn.Module):
    """A block that keeps nothing but its input."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False)


def checkpoint_blocks(module):
    """Wraps every block in `module`, in place.

    Running statistics of batch norm then move twice a step; no loss in training depends on them.
    """
    for name, child in module.named_children():
        if isinstance(child, (models.Bottleneck, models.TransformerBlock)):
            setattr(module, name, Checkpointed(child))
        else:
            checkpoint_blocks(child)


@dataclasses.dataclass(frozen=True)
class Codec:
    bits: int = 2
    seed: int = 0


class Trainer:
    """One method's training of a workload, from the workload's first weights."""

    WARM_UP_STEPS = 20  # over which the learning rate rises
    GRADIENT_NORM = 1.0  # at most, so that no curve jumps

    def __init__(self, workload, method, codec, device):
        torch.manual_seed(codec.seed)
        self.method, self.codec, self.device = method, codec, device
        model = workload.fresh_model(device)
        self.loss = workload.loss_for(model)
        self.model = self._prepared(model)
        self.optimizer = workload.make_optimizer(
            self.model.parameters(), is_fused=device.type == "cuda")
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / self.WARM_UP_STEPS))

    def forward(self, batch):
        with self._precision():
            with self._saved_tensors():
                output = self.model(batch.input)
            return self.loss(output, batch.target)

    def step(self, batch):
        """Returns the loss on the device, without waiting for it."""
        loss = self.forward(batch)
        loss.backward()
        self.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def update(self):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()

    def parameter_bytes(self):
        return sum(bytes_of(parameter) for parameter in self.model.parameters())

    def gradient_bytes(self):
        return sum(bytes_of(parameter.grad) for parameter in self.model.parameters()
                   if parameter.grad is not None)

    def optimizer_bytes(self):
        return sum(bytes_of(value) for state in self.optimizer.state.values()
                   for value in state.values() if torch.is_tensor(value))

    def _prepared(self, model):
        keeping = self.method.keeping
        if keeping is Keeping.CHECKPOINTS:
            checkpoint_blocks(model)
        elif keeping in (Keeping.ACTNN, Keeping.CONVERTED):
            import actpack  # here, so that the other methods run without it

            how = {"context": "affine", "subtractive": False} if keeping is Keeping.ACTNN else {}
            model = actpack.convert(
                model, bits=self.codec.bits, seed=self.codec.seed,
                replace={models.ScaledDotProductAttention: actpack.nn.ScaledDotProductAttention},
                **how)
        return model

    def _precision(self):
        if not self.method.is_amp:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _saved_tensors(self):
        if self.method.keeping is not Keeping.HOOKS:
            return contextlib.nullcontext()
        import actpack

        return actpack.compressed(bits=self.codec.bits, seed=self.codec.seed, keep=self.model)


def bytes_of(tensor):
    return tensor.numel() * tensor.element_size()
