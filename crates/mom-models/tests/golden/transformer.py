#!/usr/bin/env python3
"""Values of a transformer's block and of Mixture-of-Transformers' by PyTorch, written from the papers.

    python3 transformer.py OUT_FOLDER        # writes transformer.safetensors and mot.safetensors

Pre-norm with RMS norm, rotary positions by halves within a document (base 10,000), SwiGLU; causal inside of documents, both
ways inside of spans. In float64. Each file holds the weights, x and y by position, and the gradients of sum(y * weight_of_y)
by x and by every weight. The header tells seed and versions.
"""
import json
import struct
import sys

import torch
import torch.nn.functional as F

SEED, D, HEADS, FF, K, BATCH, LEN, EPS, BASE = 7, 16, 2, 24, 2, 2, 13, 1e-5, 10_000.0
STARTS = [0, 5, LEN, LEN + 9]  # flat positions where documents begin
SPANS = [(2, 5), (7, 11), (LEN + 1, LEN + 4), (LEN + 9, LEN + 13)]
MODALITIES = [1 if any(a <= p < b for a, b in SPANS) else 0 for p in range(BATCH * LEN)]


def rms_norm(x, weight):
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def turned(x, places):
    half = D // HEADS // 2
    angle = places[:, None] * BASE ** (-2.0 * torch.arange(half, dtype=torch.float64) / (2 * half))
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


def forward(x, weight, modalities):
    """x: (batch * len, D). weight(name, modality) gives a matrix or a vector."""

    def each(f):
        out = None
        for m in range(K):
            here = modalities == m
            y = f(x_of[here], m)
            out = torch.zeros(len(x_of), y.shape[-1], dtype=torch.float64) if out is None else out
            out = out.index_put((here.nonzero()[:, 0],), y)
        return out

    document = [max(s for s in STARTS if s <= p) for p in range(BATCH * LEN)]
    places = torch.tensor([p - document[p] for p in range(BATCH * LEN)], dtype=torch.float64)
    end = list(range(1, BATCH * LEN + 1))
    for a, b in SPANS:
        end[a:b] = [b] * (b - a)
    mask = torch.tensor([[document[t] <= s < end[t] for s in range(BATCH * LEN)] for t in range(BATCH * LEN)])
    x_of = x
    h = each(lambda x, m: rms_norm(x, weight("norm_1", m)))
    x_of = h
    q, k, v = each(lambda x, m: x @ weight("qkv_proj", m).T).view(-1, 3, HEADS, D // HEADS).unbind(1)
    heads = [t.transpose(0, 1) for t in (turned(q, places), turned(k, places), v)]
    x_of = F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(0, 1).reshape(-1, D)
    h = x + each(lambda x, m: x @ weight("out_proj", m).T)
    x_of = h
    x_of = each(lambda x, m: rms_norm(x, weight("norm_2", m)))
    gate, up = each(lambda x, m: x @ weight("up_proj", m).T).chunk(2, -1)
    x_of = F.silu(gate) * up
    return h + each(lambda x, m: x @ weight("down_proj", m).T)


def write(path, tensors, metadata):
    header, data, at = {"__metadata__": metadata}, b"", 0
    for name, tensor in sorted(tensors.items()):
        raw = tensor.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": "F64", "shape": list(tensor.shape), "data_offsets": [at, at + len(raw)]}
        data, at = data + raw, at + len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def main(folder):
    for name, per_modality in [("transformer", False), ("mot", True)]:
        torch.manual_seed(SEED)
        shapes = {
            "norm_1": (D,), "qkv_proj": (3 * D, D), "out_proj": (D, D),
            "norm_2": (D,), "up_proj": (2 * FF, D), "down_proj": (D, FF),
        }
        weights = {}
        for part, shape in shapes.items():
            for m in range(K if per_modality else 1):
                key = f"local_experts_{part}.{m}.weight" if per_modality else f"{part}.weight"
                draw = torch.randn(shape, dtype=torch.float64)
                weights[key] = (1 + 0.2 * draw if len(shape) == 1 else draw * shape[1] ** -0.5).requires_grad_()
        get = lambda part, m: weights[f"local_experts_{part}.{m}.weight" if per_modality else f"{part}.weight"]
        x = torch.randn(BATCH * LEN, D, dtype=torch.float64, requires_grad=True)
        of_y = torch.randn(BATCH * LEN, D, dtype=torch.float64)
        y = forward(x, get, torch.tensor(MODALITIES))
        (y * of_y).sum().backward()
        tensors = {"x": x, "y": y, "weight_of_y": of_y, "grad.x": x.grad}
        tensors |= weights | {f"grad.{key}": weight.grad for key, weight in weights.items()}
        metadata = {
            "seed": str(SEED), "torch": torch.__version__, "n_heads": str(HEADS), "d_ff": str(FF), "batch": str(BATCH),
            "starts": json.dumps(STARTS), "spans": json.dumps(SPANS), "modalities": json.dumps(MODALITIES),
        }
        write(f"{folder}/{name}.safetensors", tensors, metadata)


main(sys.argv[1])
