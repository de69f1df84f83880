"""Small STanHop networks with random weights in PyTorch, float64, written from the formulas of STanHop-Net (Wu et al. 2023)
and of the outlier paper; autograd makes the gradients. The vectors of stanhop.json are filled with sines, whose matrices have
rank 2; here weights are random, and gates are included.

    python3 stanhop_reference.py > stanhop_reference.json

Weights: element e of the k-th parameter (order of registration) is scale * (2 u - 1), u from the hash below. LayerNorm gains
1 + that. Names of parameters are the program's.
"""
import json
import math

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
MASK = (1 << 64) - 1


def uniform(k, e):
    x = (k * 1000003 + e + 1) * 0x9E3779B97F4A7C15 & MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return ((x ^ x >> 31) >> 40) / (1 << 24)


def fill(shape, k, scale):
    n = math.prod(shape)
    return torch.tensor([scale * (2 * uniform(k, e) - 1) for e in range(n)]).reshape(shape)


class Net:
    def __init__(self, attention="softmax1", alpha_max=3, norms="oeh", mix=True, baseline=False, merge=2, gate=None,
                 series=3, input=11, horizon=7, segment=3, patterns=4, layers=3, width=12, heads=3, ffn=16):
        self.__dict__.update(locals())
        self.param = {}
        self.order = []
        C = width
        self.L = -(-input // segment)
        self.U = -(-horizon // segment)
        self.add("enc_pos", (1, series, self.L, C), 1.5)
        self.add("dec_pos", (1, series, self.U, C), 1.5)
        self.linear("embed", C, segment)
        self.norm("pre_norm", C)
        for i in range(layers):
            if i and merge > 1:
                self.linear(f"enc.{i}.merge.linear", C, merge * C)
                self.norm(f"enc.{i}.merge.norm", merge * C)
            self.block(f"enc.{i}.")
        for i in range(layers + 1):
            self.block(f"dec.{i}.")
            self.hopfield(f"dec.{i}.cross.")
            self.norm(f"dec.{i}.out_norm1", C)
            self.norm(f"dec.{i}.out_norm2", C)
            self.linear(f"dec.{i}.ffn1", C, C)
            self.linear(f"dec.{i}.ffn2", C, C)
            self.linear(f"dec.{i}.predict", segment, C)

    def add(self, name, shape, scale, one=False):
        x = fill(shape, len(self.order), scale) + (1.0 if one else 0.0)
        self.order.append(name)
        self.param[name] = x.requires_grad_()

    def linear(self, name, o, i):
        self.add(name + ".weight", (o, i), 0.4)
        self.add(name + ".bias", (o,), 0.4)

    def norm(self, name, n):
        self.add(name + ".weight", (n,), 0.4, one=True)
        self.add(name + ".bias", (n,), 0.4)

    def hopfield(self, name, patterns=False):
        C, H = self.width, self.heads
        if patterns:
            self.add(name + "key", (1, self.patterns, C), 1.5)
        if self.attention == "entmax":
            self.add(name + "alpha", (1,), 1.0)
        for part in "q", "k", "v", "out":
            self.linear(name + part, C, C)
        if self.gate:
            self.add(name + "gate.weight", (H, C // H), 0.9)
            self.add(name + "gate.bias", (H,), 0.9)

    def block(self, name):
        self.hopfield(name + "time.")
        self.hopfield(name + "pool.", True)
        self.hopfield(name + "series.")
        for k in (1, 2, 3, 4) if self.norms == "stanhop" else (3,):
            self.norm(name + f"norm{k}", self.width)
        for m in "mlp1", "mlp2":
            self.linear(name + m + ".1", self.ffn, self.width)
            self.linear(name + m + ".2", self.width, self.ffn)

    # ---- forward
    def lin(self, x, name):
        return F.linear(x, self.param[name + ".weight"], self.param[name + ".bias"])

    def ln(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.param[name + ".weight"], self.param[name + ".bias"], 1e-5)

    def rows(self, s, name):
        if self.attention == "entmax":
            alpha = 1 + (self.alpha_max - 1) * torch.sigmoid(self.param[name + "alpha"][0])
            z = (alpha - 1) * s
            p = 1 / (alpha - 1)
            with torch.no_grad():
                hi = z.max(-1, keepdim=True).values
                lo = hi - 1
                for _ in range(200):
                    mid = (lo + hi) / 2
                    big = ((z - mid).clamp(min=0) ** p).sum(-1, keepdim=True) >= 1
                    lo, hi = torch.where(big, mid, lo), torch.where(big, hi, mid)
                on = z > lo
                slope = (torch.where(on, (z - lo).clamp(min=1e-300), torch.ones_like(z)) ** (p - 1) * p * on).sum(-1, keepdim=True)
            t = torch.where(on, z - lo, torch.ones_like(z))
            tau = lo + ((t ** p * on).sum(-1, keepdim=True) - 1) / slope  # its derivative is that of the root
            t = torch.where(on, (z - tau).clamp(min=1e-300), torch.ones_like(z))
            return t ** p * on
        if self.attention == "vanilla":
            return s.softmax(-1)
        return torch.cat([s, torch.zeros_like(s[..., :1])], -1).softmax(-1)[..., :-1]

    def hop(self, state, stored, name):  # (N,L,C), (N,S,C)
        N, L, C = state.shape
        H, D = self.heads, C // self.heads
        k = self.lin(stored, name + "k")
        heads = lambda x: x.reshape(x.shape[0], -1, H, D).transpose(1, 2)
        s = heads(self.lin(state, name + "q")) @ heads(k).transpose(2, 3) / math.sqrt(D)
        a = self.rows(s, name) @ heads(self.lin(k, name + "v"))  # (N,H,L,D)
        if self.gate:
            logit = (heads(state) * self.param[name + "gate.weight"][None, :, None, :]).sum(-1) + self.param[name + "gate.bias"][None, :, None]
            a = a * torch.sigmoid(logit)[..., None]
        a = (a if self.mix else a.transpose(1, 2)).reshape(N, L, C)
        return self.lin(a, name + "out")

    def mlp(self, x, a, b):
        return self.lin(F.gelu(self.lin(x, a)), b)

    def sthm(self, x, name):  # (B,M,L,C)
        B, M, L, C = x.shape
        maybe = (lambda u, k: self.ln(u, name + f"norm{k}")) if self.norms == "stanhop" else (lambda u, k: u)
        t = x.reshape(B * M, L, C)
        u = maybe(t + self.hop(t, t, name + "time."), 1)
        u = maybe(u + self.mlp(u, name + "mlp1.1", name + "mlp1.2"), 2)
        v = u.reshape(B, M, L, C).transpose(1, 2).reshape(B * L, M, C)
        y = self.hop(v, self.param[name + "pool.key"].expand(B * L, -1, -1), name + "pool.") + self.hop(v, v, name + "series.")
        y = self.ln(y, name + "norm3")
        y = maybe(y + self.mlp(y, name + "mlp2.1", name + "mlp2.2"), 4)
        return y.reshape(B, L, M, C).transpose(1, 2)

    def forward(self, x):
        B, T, M = x.shape
        pad = self.L * self.segment - T
        z = torch.cat([x[:, :1].expand(B, pad, M), x], 1).reshape(B, self.L, self.segment, M).permute(0, 3, 1, 2)
        h = self.ln(self.lin(z, "embed") + self.param["enc_pos"], "pre_norm")
        kept = [h]
        for i in range(self.layers):
            if i and self.merge > 1:
                L, w = h.shape[2], self.merge
                miss = -L % w
                h = torch.cat([h, h[:, :, L - miss:]], 2).reshape(B, M, -1, w * self.width)
                h = self.lin(self.ln(h, f"enc.{i}.merge.norm"), f"enc.{i}.merge.linear")
            h = self.sthm(h, f"enc.{i}.")
            kept.append(h)
        y = self.param["dec_pos"].expand(B, -1, -1, -1)
        total = 0
        for i in range(self.layers + 1):
            n = f"dec.{i}."
            a = self.sthm(y, n).reshape(B * M, self.U, self.width)
            r = self.ln(a + self.hop(a, kept[i].reshape(B * M, -1, self.width), n + "cross."), n + "out_norm1")
            y = self.ln(r + self.mlp(r, n + "ffn1", n + "ffn2"), n + "out_norm2").reshape(B, M, self.U, self.width)
            total = total + self.lin(y, n + "predict")
        out = total.permute(0, 2, 3, 1).reshape(B, -1, M)[:, : self.horizon]
        return out + (x.mean(1, keepdim=True) if self.baseline else 0)


def number(x):
    return float("%.12g" % x)


def main():
    cases = []
    for kind in ({}, {"attention": "vanilla", "norms": "stanhop", "baseline": True, "merge": 1},
                 {"attention": "entmax"}, {"attention": "entmax", "alpha_max": 2, "norms": "stanhop", "mix": False},
                 {"gate": "conditional_per_token"}, {"gate": "conditional_per_token", "mix": False, "attention": "vanilla"}):
        net = Net(**kind)
        x = fill((2, net.input, net.series), 5001, 2.0)
        y = fill((2, net.horizon, net.series), 5002, 2.0)
        out = net.forward(x)
        loss = ((out - y) ** 2).mean()
        loss.backward()
        cases.append({"config": {k: getattr(net, k) for k in ("attention", "alpha_max", "norms", "mix", "baseline", "merge", "gate", "series",
                                                              "input", "horizon", "segment", "patterns", "layers", "width", "heads", "ffn")},
                      "loss": number(loss.item()), "forecast": [number(v) for v in out.flatten().tolist()],
                      "order": net.order,
                      "gradients": {n: [number(net.param[n].grad.norm().item()), number(net.param[n].grad.flatten()[0].item()),
                                        number(net.param[n].grad.flatten()[-1].item())] for n in net.order}})
    print('{"rows": 2, "cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}")


main()
