#!/usr/bin/env python3
"""PyTorch eager peer of `ohtrain bench -c jobs/stanhop-etth1-24.yaml`: STanHop-Net of the published size, written module by
module from its formulas: softmax_1 from elementwise operations, learned patterns expanded over the batch, dropout on, Adam,
clipping by global norm.

    peer_stanhop.py [--batch 32] [--steps 3] [--threads 2] [--json FILE]

Prints step seconds (median), windows/s and peak resident memory. Dev-only: needs torch.
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

M, T, U, S, E, C, FF, H, PATTERNS, P = 7, 168, 24, 6, 11, 256, 512, 4, 10, 0.5


def softmax_1(x):
    shift = x.max(dim=-1, keepdim=True).values.clamp(min=0).detach()
    e = torch.exp(x - shift)
    return e / (torch.exp(-shift) + e.sum(dim=-1, keepdim=True))


class Hopfield(nn.Module):
    def __init__(self, patterns=0):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(C, C) for _ in range(4))
        if patterns:
            self.key = nn.Parameter(0.02 * torch.randn(1, patterns, C))

    def forward(self, state, stored=None):  # (N,L,C), (N,S,C)
        if stored is None:
            stored = self.key.expand(state.shape[0], -1, -1)
        N, L, _ = state.shape
        k = self.k(stored)
        split = lambda x: x.view(N, -1, H, C // H).transpose(1, 2)
        s = torch.matmul(split(self.q(state)), split(k).transpose(-1, -2)) / math.sqrt(C // H)
        p = F.dropout(softmax_1(s), P, self.training)
        a = torch.matmul(p, split(self.v(k)))  # (N,H,L,C/H), read as (N,L,C)
        return self.o(a.reshape(N, L, C))


def mlp():
    return nn.Sequential(nn.Linear(C, FF), nn.GELU(), nn.Linear(FF, C))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.time, self.pool, self.series = Hopfield(), Hopfield(PATTERNS), Hopfield()
        self.norm, self.mlp1, self.mlp2 = nn.LayerNorm(C), mlp(), mlp()

    def forward(self, x):  # (B,M,L,C)
        drop = lambda y: F.dropout(y, P, self.training)
        B, _, L, _ = x.shape
        t = x.reshape(B * M, L, C)
        u = t + drop(self.time(t, t))
        u = u + drop(self.mlp1(u))
        v = u.view(B, M, L, C).transpose(1, 2).reshape(B * L, M, C)
        y = self.norm(self.pool(v) + drop(self.series(v, v)))
        y = y + drop(self.mlp2(y))
        return y.view(B, L, M, C).transpose(1, 2)


class DecoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.cross = Block(), Hopfield()
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.mlp = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, C))
        self.predict = nn.Linear(C, S)

    def forward(self, y, stored):
        B, _, L, _ = y.shape
        a = self.block(y).reshape(B * M, L, C)
        n = self.norm1(a + F.dropout(self.cross(a, stored.reshape(B * M, -1, C)), P, self.training))
        y = self.norm2(n + self.mlp(n)).view(B, M, L, C)
        return y, self.predict(y)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc_pos, self.dec_pos = nn.Parameter(torch.randn(1, M, T // S, C)), nn.Parameter(torch.randn(1, M, U // S, C))
        self.embed, self.norm = nn.Linear(S, C), nn.LayerNorm(C)
        self.encoder = nn.ModuleList(Block() for _ in range(E))
        self.decoder = nn.ModuleList(DecoderLayer() for _ in range(E + 1))

    def forward(self, x):  # (B,T,M)
        B = x.shape[0]
        h = self.norm(self.embed(x.view(B, T // S, S, M).permute(0, 3, 1, 2)) + self.enc_pos)
        kept = [h]
        for block in self.encoder:
            h = block(h)
            kept.append(h)
        y, total = self.dec_pos.expand(B, -1, -1, -1), 0
        for layer, stored in zip(self.decoder, kept):
            y, part = layer(y, stored)
            total = total + part
        return total.permute(0, 2, 3, 1).reshape(B, U, M)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    net = Net()
    n = sum(p.numel() for p in net.parameters())
    assert n == 35150664, n
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    seconds = []
    for step in range(a.steps + 1):  # the first one warms up
        x, y = torch.randn(a.batch, T, M), torch.randn(a.batch, U, M)
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    step_s = statistics.median(seconds[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out = {"peer": f"PyTorch {torch.__version__}", "parameters": n, "batch": a.batch, "step_s": step_s, "windows_per_s": a.batch / step_s,
           "peak_rss_bytes": peak, "beyond_16_bytes_a_parameter": peak - 16 * n}
    print(json.dumps(out, indent=2))
    if a.json:
        with open(a.json, "w") as f:
            json.dump(out, f)


main()
