#!/usr/bin/env python3
"""PyTorch eager peer of `ohtrain bench`: the same model, batch and loss, attention written as the OutEffHop reference
writes it (softmax_1 from elementwise operations, dropout on, default AdamW, clipping by global norm).

    peer_pytorch.py --model opt|bert|vit [--batch 4] [--steps 3] [--threads 2] [--json FILE]

Prints step seconds (median), tokens/s (vit: and images/s) and peak resident memory beyond 16 bytes a parameter. Dev-only: needs
torch.
"""
import argparse
import json
import math
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


def softmax_1(x):
    shift = x.max(dim=-1, keepdim=True).values.detach()
    e = torch.exp(x - shift)
    return e / (torch.exp(-shift) + e.sum(dim=-1, keepdim=True))


class Attention(nn.Module):
    def __init__(self, d, heads, dropout):
        super().__init__()
        self.h, self.p = heads, dropout
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x, mask):
        B, T, d = x.shape
        split = lambda y: y.view(B, T, self.h, d // self.h).transpose(1, 2)
        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        s = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(d // self.h) + mask
        p = F.dropout(softmax_1(s), self.p, self.training)
        return self.o(torch.matmul(p, v).transpose(1, 2).reshape(B, T, d))


class Block(nn.Module):
    def __init__(self, d, heads, ffn, pre, act, p_attn, p, eps):
        super().__init__()
        self.pre, self.act, self.p = pre, act, p
        self.attn = Attention(d, heads, p_attn)
        self.ln1, self.ln2 = nn.LayerNorm(d, eps), nn.LayerNorm(d, eps)
        self.fc1, self.fc2 = nn.Linear(d, ffn), nn.Linear(ffn, d)

    def forward(self, x, mask):
        drop = lambda y: F.dropout(y, self.p, self.training)
        if self.pre:
            x = x + drop(self.attn(self.ln1(x), mask))
            return x + drop(self.fc2(self.act(self.fc1(self.ln2(x)))))
        x = self.ln1(x + drop(self.attn(x, mask)))
        return self.ln2(x + drop(self.fc2(self.act(self.fc1(x)))))


class OPT(nn.Module):
    V, T = 50272, 512

    def __init__(self, d=768, L=12, heads=12, ffn=3072):
        super().__init__()
        self.tok, self.pos = nn.Embedding(self.V, d), nn.Embedding(self.T + 2, d)
        self.blocks = nn.ModuleList(Block(d, heads, ffn, True, F.relu, 0.0, 0.1, 1e-5) for _ in range(L))
        self.ln = nn.LayerNorm(d, 1e-5)

    def forward(self, ids):
        T = ids.shape[1]
        mask = torch.full((T, T), torch.finfo(torch.float32).min).triu(1)
        x = self.tok(ids) + self.pos.weight[2:T + 2]
        for b in self.blocks:
            x = b(x, mask)
        logits = F.linear(self.ln(x), self.tok.weight)
        return F.cross_entropy(logits[:, :-1].reshape(-1, self.V), ids[:, 1:].reshape(-1))


class BERT(nn.Module):
    V, T = 30522, 128

    def __init__(self, d=768, L=12, heads=12, ffn=3072):
        super().__init__()
        self.tok, self.pos, self.seg = nn.Embedding(self.V, d), nn.Embedding(512, d), nn.Embedding(2, d)
        self.ln = nn.LayerNorm(d, 1e-12)
        self.blocks = nn.ModuleList(Block(d, heads, ffn, False, F.gelu, 0.1, 0.1, 1e-12) for _ in range(L))
        self.t, self.tln, self.bias = nn.Linear(d, d), nn.LayerNorm(d, 1e-12), nn.Parameter(torch.zeros(self.V))

    def forward(self, ids):
        labels = torch.where(torch.rand(ids.shape) < 0.15, ids, -100)
        x = self.tok(ids) + self.seg.weight[0] + self.pos.weight[:ids.shape[1]]
        x = F.dropout(self.ln(x), 0.1, self.training)
        mask = torch.zeros(ids.shape[0], 1, 1, ids.shape[1])
        for b in self.blocks:
            x = b(x, mask)
        logits = F.linear(self.tln(F.gelu(self.t(x))), self.tok.weight, self.bias)
        return F.cross_entropy(logits.view(-1, self.V), labels.view(-1), ignore_index=-100)


class ViT(nn.Module):
    """ViT-S/16 as the outlier papers train it: LayerNorm before the blocks, q, k, v in one matrix without bias; soft targets."""
    S, P, CLASSES = 224, 16, 1000
    T = (S // P) ** 2 + 1

    class Block(nn.Module):
        def __init__(self, d, heads, ffn):
            super().__init__()
            self.h = heads
            self.ln1, self.ln2 = nn.LayerNorm(d, 1e-6), nn.LayerNorm(d, 1e-6)
            self.qkv, self.proj = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
            self.fc1, self.fc2 = nn.Linear(d, ffn), nn.Linear(ffn, d)

        def forward(self, x):
            B, T, d = x.shape
            q, k, v = self.qkv(self.ln1(x)).reshape(B, T, 3, self.h, d // self.h).permute(2, 0, 3, 1, 4)
            p = softmax_1(q @ k.transpose(-2, -1) * (d // self.h) ** -0.5)
            x = x + self.proj((p @ v).transpose(1, 2).reshape(B, T, d))
            return x + self.fc2(F.gelu(self.fc1(self.ln2(x))))

    def __init__(self, d=384, L=12, heads=6, ffn=1536):
        super().__init__()
        self.patch = nn.Conv2d(3, d, self.P, self.P, bias=False)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, d)), nn.Parameter(torch.zeros(1, self.T, d))
        self.blocks = nn.ModuleList(self.Block(d, heads, ffn) for _ in range(L))
        self.pre, self.ln, self.head = nn.LayerNorm(d, 1e-6), nn.LayerNorm(d, 1e-6), nn.Linear(d, self.CLASSES)

    def batch(self, n):
        return torch.randint(0, 256, (n, 3, self.S, self.S)) / 127.5 - 1, F.one_hot(torch.randint(0, self.CLASSES, (n,)), self.CLASSES).float()

    def forward(self, data):
        images, targets = data
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = self.pre(torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos)
        for b in self.blocks:
            x = b(x)
        return -(targets * torch.log_softmax(self.head(self.ln(x)[:, 0]), -1)).sum(-1).mean()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", choices=["opt", "bert", "vit"], required=True)
    ap.add_argument("--batch", type=int, default=4)
    ap.add_argument("--steps", type=int, default=3)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--json")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model = {"opt": OPT, "bert": BERT, "vit": ViT}[a.model]().train()
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.02)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    n = sum(p.numel() for p in model.parameters())
    vit = a.model == "vit"
    data = model.batch(a.batch) if vit else torch.randint(0, model.V, (a.batch, model.T))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - 4 * n  # libraries, without the parameters
    seconds = []
    for step in range(a.steps + 1):
        t0 = time.perf_counter()
        opt.zero_grad()
        loss = model(data)
        loss.backward()
        if not vit:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if step > 0:
            seconds.append(time.perf_counter() - t0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    s = statistics.median(seconds)
    out = {"peer": f"pytorch {torch.__version__} eager", "model": a.model, "parameters": n, "step_s": s,
           "tokens_per_s": a.batch * model.T / s, "peak_rss_bytes": peak, "library_bytes": base,
           "beyond_16_bytes_a_parameter": peak - 16 * n, "loss": loss.item()}
    if vit:
        out["images_per_s"] = a.batch / s
    print(json.dumps(out, indent=1))
    if a.json:
        json.dump(out, open(a.json, "w"))


if __name__ == "__main__":
    main()
