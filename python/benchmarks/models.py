# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
"""The networks: ResNet-50, vision transformers and the smallest GPT-2.

Plain modules with random weights, which know nothing of actpack and can be traced by torch.fx.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


class Bottleneck(nn.Module):
    """A residual block of ResNet-50, with the stride in the 3×3 convolution."""

    expansion = 4

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        channels_out = self.expansion * channels
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """torchvision's ResNet, with its names; blocks (3, 4, 6, 3) make ResNet-50."""

    def __init__(self, blocks=(3, 4, 6, 3), channels=64, classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = residual_layer(channels, channels, blocks[0], stride=1)
        self.layer2 = residual_layer(4 * channels, 2 * channels, blocks[1], stride=2)
        self.layer3 = residual_layer(8 * channels, 4 * channels, blocks[2], stride=2)
        self.layer4 = residual_layer(16 * channels, 8 * channels, blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(32 * channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images):
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def residual_layer(channels_in, channels, count, stride):
    first = Bottleneck(channels_in, channels, stride)
    rest = (Bottleneck(Bottleneck.expansion * channels, channels, 1) for _ in range(count - 1))
    return nn.Sequential(first, *rest)


def explicit_attention(query, key, value, is_causal):
    """scaled_dot_product_attention as its documentation defines it, for PyTorch before 2.0."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    if is_causal:
        is_future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(is_future, -math.inf)
    return scores.softmax(-1) @ value


attention = getattr(F, "scaled_dot_product_attention", explicit_attention)


class ScaledDotProductAttention(nn.Module):
    """A module of its own, so that it can be replaced. It has no dropout."""

    def forward(self, query, key, value, is_causal=False):
        return attention(query, key, value, is_causal=is_causal)


class SelfAttention(nn.Module):
    def __init__(self, width, heads, is_causal, dropout):
        super().__init__()
        self.heads = heads
        self.is_causal = is_causal
        self.qkv = nn.Linear(width, 3 * width)
        self.attend = ScaledDotProductAttention()
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heads = self.attend(qkv[0], qkv[1], qkv[2], is_causal=self.is_causal)
        return self.dropout(self.projection(heads.transpose(1, 2).flatten(2)))


class TransformerBlock(nn.Module):
    """The pre-norm block of both transformers."""

    def __init__(self, width, heads, is_causal, dropout):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, is_causal, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width),
            nn.Dropout(dropout))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """ViT with 16×16 patches: width 384 and 6 heads make ViT-S, 768 and 12 ViT-B."""

    def __init__(self, image_size=224, width=384, depth=12, heads=6, classes=1000, dropout=0.1):
        super().__init__()
        patch = 16
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, (image_size // patch) ** 2 + 1, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(
            TransformerBlock(width, heads, is_causal=False, dropout=dropout)
            for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        initialize_transformer(self)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        class_token = self.class_token.expand(tokens.size(0), -1, -1)
        x = self.dropout(torch.cat((class_token, tokens), 1) + self.position)
        return self.head(self.norm(self.blocks(x))[:, 0])


class Gpt(nn.Module):
    """GPT-2 up to its last layer norm. The loss has the head, with token_embedding's weight.

    Sequences are as long as the context.
    """

    def __init__(self, context=1024, width=768, depth=12, heads=12, vocabulary=50257, dropout=0.1):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(context, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(
            TransformerBlock(width, heads, is_causal=True, dropout=dropout)
            for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        initialize_transformer(self)

    def forward(self, tokens):
        x = self.dropout(self.token_embedding(tokens) + self.position)
        return self.norm(self.blocks(x))


def initialize_transformer(model):
    """GPT-2's initial weights: deviation 0.02, less where they add to the residual stream."""
    residual_deviation = 0.02 / math.sqrt(2 * len(model.blocks))
    nn.init.normal_(model.position, std=0.02)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    for block in model.blocks:
        nn.init.normal_(block.attention.projection.weight, std=residual_deviation)
        nn.init.normal_(block.mlp[2].weight, std=residual_deviation)
