# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""Workloads: a model, generated data that it can learn, its loss and its optimizer.

A batch is a function of (seed, step) alone, so every method sees the same data in the same order.
"""
import copy
import dataclasses
import hashlib
import math
from typing import Callable

import models
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


@dataclasses.dataclass(frozen=True)
class Batch:
    input: torch.Tensor
    target: torch.Tensor


def generator_for(seed, step, device):
    """A hash of both, since the CPU's generator uses only 32 bits of its seed."""
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:7], "little"))


class ImageData:
    """Each class is a pattern of 8×8 coloured squares, plus noise of squares and of pixels."""

    CLASSES = 20
    SQUARES = 8
    STRENGTH = 0.5  # of the pattern; the deviation of either noise is 1

    def __init__(self, image_size, memory_format, seed, device):
        self.image_size, self.memory_format = image_size, memory_format
        self.seed, self.device = seed, device
        self.patterns = self.STRENGTH * torch.randn(
            self.CLASSES, 3, self.SQUARES, self.SQUARES, device=device,
            generator=generator_for(seed, 0, device))

    def batch(self, size, step):
        generator = generator_for(self.seed, 1 + step, self.device)
        target = torch.randint(self.CLASSES, (size,), generator=generator, device=self.device)
        squares = self.patterns[target]
        squares = squares + torch.randn(squares.shape, generator=generator, device=self.device)
        images = F.interpolate(squares, size=(self.image_size, self.image_size))
        images += torch.randn(images.shape, generator=generator, device=self.device)
        return Batch(images.contiguous(memory_format=self.memory_format), target)


class TextData:
    """A Markov chain: from each of a ring of tokens, four strides with given probabilities.

    Its entropy is a bound that no loss goes below for long.
    """

    STATES = 1024
    PROBABILITIES = (0.5, 0.25, 0.125, 0.125)
    ENTROPY = -sum(p * math.log(p) for p in PROBABILITIES)  # nats a token

    def __init__(self, context, vocabulary, seed, device):
        self.context, self.seed, self.device = context, seed, device
        generator = generator_for(seed, 0, device)
        shuffled = torch.randperm(vocabulary, generator=generator, device=device)
        self.ring = shuffled[:self.STATES]
        self.strides = 1 + torch.randperm(
            len(self.ring) - 1, generator=generator, device=device)[:len(self.PROBABILITIES)]
        self.probabilities = torch.tensor(self.PROBABILITIES, device=device)

    def batch(self, size, step):
        generator = generator_for(self.seed, 1 + step, self.device)
        start = torch.randint(len(self.ring), (size, 1), generator=generator, device=self.device)
        choices = torch.multinomial(
            self.probabilities, size * self.context, replacement=True, generator=generator)
        moves = self.strides[choices].view(size, self.context).cumsum(1)
        tokens = self.ring[torch.cat((start, start + moves), 1) % len(self.ring)]
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def classification_loss(output, target):
    return F.cross_entropy(output.float(), target)


class NextTokenLoss:
    """GPT-2's head and its cross entropy.

    The probabilities of 50,257 tokens take several times the memory of a transformer layer, and no
    method may round them, because the softmax's gradient is not linear in them. Lest they drown the
    comparison, the head works on `rows` positions at a time, and again in the backward pass, for
    every method alike. With 0 rows it works on all at once.
    """

    def __init__(self, weight, rows):
        self.weight, self.rows = weight, rows

    def __call__(self, hidden, target):
        hidden, target = hidden.flatten(0, 1), target.flatten()
        if self.rows == 0:
            return self._sum(hidden, target) / target.numel()
        parts = zip(hidden.split(self.rows), target.split(self.rows))
        return sum(checkpoint(self._sum, *part, use_reentrant=False)
                   for part in parts) / target.numel()

    def _sum(self, hidden, target):
        logits = F.linear(hidden, self.weight).float()
        return F.cross_entropy(logits, target, reduction="sum")


@dataclasses.dataclass
class Workload:
    """`initial_model` stays on the CPU; every measurement trains a copy."""

    name: str
    unit: str  # counted per second
    units_per_sample: int
    initial_model: torch.nn.Module
    data: ImageData | TextData
    loss_for: Callable  # of a model before a method changes it
    make_optimizer: Callable  # of parameters and whether to fuse
    loss_bound: float = 0

    def fresh_model(self, device):
        return copy.deepcopy(self.initial_model).to(device)


def make_sgd(parameters, is_fused):
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4,
                           **fusion(is_fused))


def make_adamw(parameters, is_fused):
    return torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1,
                             **fusion(is_fused))


def fusion(is_fused):
    """A fused optimizer needs no temporary copies of the gradients. Not every PyTorch has one."""
    return {"fused": True} if is_fused else {}


def image_workload(name, model, make_optimizer, settings, device):
    memory_format = torch.channels_last if settings.is_channels_last else torch.contiguous_format
    data = ImageData(settings.image_size, memory_format, settings.seed, device)
    return Workload(name, "images", 1, model.to(memory_format=memory_format), data,
                    lambda model: classification_loss, make_optimizer)


def make_resnet(settings, device):
    model = (models.ResNet(blocks=(1, 1, 1, 1), channels=16) if settings.is_tiny
             else models.ResNet())
    return image_workload("ResNet-50", model, make_sgd, settings, device)


def make_vit(title, width, heads):
    def make(settings, device):
        size = ({"width": 64, "depth": 2, "heads": 2} if settings.is_tiny
                else {"width": width, "heads": heads})
        model = models.VisionTransformer(settings.image_size, **size)
        return image_workload(title, model, make_adamw, settings, device)
    return make


def make_gpt(settings, device):
    size = {"width": 64, "depth": 2, "heads": 2, "vocabulary": 1536} if settings.is_tiny else {}
    model = models.Gpt(settings.context, **size)
    data = TextData(settings.context, model.token_embedding.num_embeddings, settings.seed, device)
    return Workload(
        "GPT-2 small", "tokens", settings.context, model, data,
        lambda model: NextTokenLoss(model.token_embedding.weight, settings.loss_rows),
        make_adamw, loss_bound=TextData.ENTROPY)


MAKERS = {
    "resnet50": make_resnet,
    "vit_s16": make_vit("ViT-S/16", 384, 6),
    "vit_b16": make_vit("ViT-B/16", 768, 12),
    "gpt2": make_gpt,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The workload, as the command line sets it."""

    model: str = "resnet50"
    image_size: int = 224
    context: int = 1024
    loss_rows: int = 1024
    seed: int = 0
    is_tiny: bool = False  # the same layers, few and narrow
    is_channels_last: bool = False  # how images lie in memory


def make_workload(settings, device):
    torch.manual_seed(settings.seed)
    return MAKERS[settings.model](settings, device)
