"""EfficientNet-Lite0 (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) for `light`.

A picture becomes one unit row for each frame, of two parts; a text becomes one row that meets the second part:

    picture = [√(1 − |p|²/2) · f,  p/√2]      f: the 1280 numbers before the classifier, of unit length
                                              p: probabilities of the 1,000 classes
    text    = [0,  q/|q|]                     q: softmax(likeness of the text to the names of each class / 0.07)

So words find pictures of the classes that they name, and two pictures are compared by both parts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 1280
CLASSES = 1000
BLOCKS = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
"""Repeats, kernel, stride of the first, expansion, channels in and out."""
EPSILON = 1e-3
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME does: one more at the end where the padding is odd."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
        total = kernel - stride  # of a side that the stride divides
        self.border = (total // 2, total - total // 2) * 2

    def forward(self, pixels: Tensor) -> Tensor:
        """Convolve.

        Args:
            pixels: float32, shape (B, C, H, W); the stride divides H and W.

        Returns:
            float32, shape (B, C', H / stride, W / stride).
        """
        found: Tensor = super().forward(F.pad(pixels, self.border))
        return found


def norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch norm with the network's epsilon.

    Args:
        channels: How many.

    Returns:
        The layer.
    """
    return nn.BatchNorm2d(channels, eps=EPSILON)


class Block(nn.Module):
    """An inverted residual; names of its layers are those of the checkpoint without their underscore.

    Args:
        kernel: Side of the depthwise convolution.
        stride: Of that convolution.
        expansion: Hidden channels by input channel.
        inputs: Channels.
        outputs: Channels.
    """

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        if expansion > 1:
            self.expand_conv = SameConv(inputs, hidden, 1)
            self.bn0 = norm(hidden)
        self.depthwise_conv = SameConv(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.bn1 = norm(hidden)
        self.project_conv = SameConv(hidden, outputs, 1)
        self.bn2 = norm(outputs)
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, pixels: Tensor) -> Tensor:
        """Expand, convolve, project.

        Args:
            pixels: float32, shape (B, C, H, W).

        Returns:
            float32, shape (B, C', H / stride, W / stride).
        """
        hidden = F.relu6(self.bn0(self.expand_conv(pixels))) if self.expands else pixels
        hidden = F.relu6(self.bn1(self.depthwise_conv(hidden)))
        found: Tensor = self.bn2(self.project_conv(hidden))
        return found + pixels if self.skips else found


class Lite0(nn.Module):
    """EfficientNet-Lite0 for pictures of 224 × 224."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, 32, 3, stride=2)
        self.bn0 = norm(32)
        self.blocks = nn.Sequential(
            *(
                Block(kernel, stride if at == 0 else 1, expansion, inputs if at == 0 else outputs, outputs)
                for repeats, kernel, stride, expansion, inputs, outputs in BLOCKS
                for at in range(repeats)
            )
        )
        self.conv_head = SameConv(320, FEATURES, 1)
        self.bn1 = norm(FEATURES)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Describe and classify pictures.

        Args:
            pixels: (value − 127) / 128, float32, shape (B, 3, 224, 224).

        Returns:
            Features, shape (B, 1280), not negative, and logits of the classes, shape (B, 1000).
        """
        hidden = self.blocks(F.relu6(self.bn0(self.conv_stem(pixels))))
        features = F.relu6(self.bn1(self.conv_head(hidden))).mean(dim=(2, 3))
        return features, self.fc(features)


class LightPicture(nn.Module):
    """Frames to unit rows.

    Args:
        network: The classifier.
    """

    def __init__(self, network: Lite0) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        """Embed a batch; see the module.

        Args:
            frames: RGB, uint8, shape (B, T, 224, 224, 3).

        Returns:
            Unit rows, float32, shape (B, T, 2280).
        """
        pixels = (frames.flatten(0, 1).permute(0, 3, 1, 2).float() - PIXEL_MEAN) / PIXEL_SCALE
        features, logits = self.network(pixels)
        named = torch.softmax(logits, dim=1) / 2**0.5
        left = (1 - named.square().sum(dim=1, keepdim=True)).sqrt()
        rows = torch.cat([F.normalize(features, dim=1) * left, named], dim=1)
        return rows.reshape(-1, frames.shape[1], FEATURES + CLASSES)
