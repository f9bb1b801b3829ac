#!/usr/bin/env python3
"""Values of the U-Net patcher by PyTorch's own convolutions and group norm, written from its description.

    python3 unet.py OUT_FOLDER        # writes unet.safetensors

In float64. Weights are a formula of their place (`values`), so that the file holds results alone: for two pictures of 3 x 3
patches in order (row, column, channel), and one in order (channel, row, column), the rows of the way down, the predicted noise, and
for each parameter the sum of its gradient times `values`. The header tells versions.
"""
import json
import math
import struct
import sys

import torch
import torch.nn.functional as F

CHANNELS, PATCH, WIDTH, D_MODEL, BLOCKS, TIME = 3, 4, 8, 16, 2, 256
UPPER, LOWER, EMBED = WIDTH, 2 * WIDTH, 4 * WIDTH


def values(n, key, scale):
    return torch.tensor([scale * math.sin(0.9 * i + key) for i in range(n)], dtype=torch.float64)


class Net:
    def __init__(self):
        self.parameters = {}

    def get(self, name, shape):
        if name not in self.parameters:
            n, fan_in = math.prod(shape), math.prod(shape[1:])
            is_norm = "norm" in name and name.endswith("weight")
            w = values(n, len(name), 0.3) + 1.0 if is_norm else values(n, len(name), 1.5 / math.sqrt(fan_in))
            self.parameters[name] = w.reshape(shape).requires_grad_()
        return self.parameters[name]

    def linear(self, name, x, n_out):
        return F.linear(x, self.get(name + ".weight", (n_out, x.shape[-1])), self.get(name + ".bias", (n_out,)))

    def conv(self, name, x, n_out, stride=1, bias=True):
        w = self.get(name + ".weight", (n_out, 3, 3, x.shape[1])).permute(0, 3, 1, 2)
        return F.conv2d(x, w, self.get(name + ".bias", (n_out,)) if bias else None, stride=stride, padding=1)

    def norm(self, name, x):
        c = x.shape[1]
        groups = max(g for g in range(1, max(1, min(32, c // 4)) + 1) if c % g == 0)
        return F.silu(F.group_norm(x, groups, self.get(name + ".weight", (c,)), self.get(name + ".bias", (c,)), 1e-5))

    def block(self, name, x, time, n_out):
        h = self.conv(name + ".conv1", self.norm(name + ".norm1", x), n_out, bias=False)
        h = h + self.linear(name + ".time", time, n_out)[:, :, None, None]
        h = self.conv(name + ".conv2", self.norm(name + ".norm2", h), n_out)
        if x.shape[1] != n_out:
            x = self.linear(name + ".shortcut", x.movedim(1, -1), n_out).movedim(-1, 1)
        return x + h


def squares(patches, side, last):
    """(n, side * side, dim) to (n, q * q * channels, 2 side, 2 side), q = PATCH / 2."""
    n, q = len(patches), PATCH // 2
    if last:
        x = patches.view(n, side, side, 2, q, 2, q, CHANNELS).permute(0, 4, 6, 7, 1, 3, 2, 5)
    else:
        x = patches.view(n, side, side, CHANNELS, 2, q, 2, q).permute(0, 5, 7, 3, 1, 4, 2, 6)
    return x.reshape(n, q * q * CHANNELS, 2 * side, 2 * side)


def patches_of(x, side, last):
    n, q = len(x), PATCH // 2
    x = x.view(n, q, q, CHANNELS, side, 2, side, 2)
    x = x.permute(0, 4, 6, 5, 1, 7, 2, 3) if last else x.permute(0, 4, 6, 3, 5, 1, 7, 2)
    return x.reshape(n * side * side, -1)


def rows(x):
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def run(out, prefix, n, side, last):
    net = Net()
    dim = CHANNELS * PATCH * PATCH
    noisy = values(n * side * side * dim, 1.0, 1.0).view(n, side * side, dim)
    features = values(n * TIME, 2.0, 1.0).view(n, TIME)
    time = F.silu(net.linear("time_out", F.silu(net.linear("time_in", features, EMBED)), EMBED))
    x = net.conv("down.conv_in", squares(noisy, side, last), UPPER)
    skips = [x]
    for i in range(BLOCKS):
        skips.append(x := net.block(f"down.levels_0.blocks.{i}", x, time, UPPER))
    skips.append(x := net.conv("down.downsample", x, UPPER, stride=2))
    for i in range(BLOCKS):
        skips.append(x := net.block(f"down.levels_1.blocks.{i}", x, time, LOWER))
    x = net.norm("down.norm_out", net.block("down.middle", x, time, LOWER))
    embedded = rows(net.conv("down.conv_out", x, D_MODEL))
    # The backbone's part is played by a function that mixes rows.
    y = torch.tanh(embedded + embedded.roll(1, 0))
    x = net.conv("up.conv_in", y.view(n, side, side, D_MODEL).permute(0, 3, 1, 2), LOWER)
    x = net.block("up.middle", x, time, LOWER)
    for i in range(BLOCKS + 1):
        x = net.block(f"up.levels_1.blocks.{i}", torch.cat([x, skips.pop()], 1), time, LOWER)
    x = net.conv("up.upsample", F.interpolate(x, scale_factor=2, mode="nearest"), LOWER)
    for i in range(BLOCKS + 1):
        x = net.block(f"up.levels_0.blocks.{i}", torch.cat([x, skips.pop()], 1), time, UPPER)
    x = net.conv("up.conv_out", net.norm("up.norm_out", x), (PATCH // 2) ** 2 * CHANNELS)
    epsilon = patches_of(x, side, last)
    (epsilon * values(epsilon.numel(), 3.0, 1.0).view_as(epsilon)).sum().backward()
    out[prefix + ".embedded"], out[prefix + ".epsilon"] = embedded.detach(), epsilon.detach()
    for name, p in net.parameters.items():
        out[f"{prefix}.grad.{name}"] = (p.grad.flatten() * values(p.numel(), 4.0, 1.0)).sum().view(1)


def save(path, tensors):
    header, data = {}, b""
    for name, tensor in sorted(tensors.items()):
        raw = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": "F64", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header["__metadata__"] = {"torch": torch.__version__, "python": sys.version.split()[0]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head + data)


results = {}
run(results, "last", 2, 3, True)
run(results, "first", 1, 2, False)
save(sys.argv[1] + "/unet.safetensors", results)
