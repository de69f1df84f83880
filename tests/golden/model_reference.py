#!/usr/bin/env python3
"""Makes model_reference.json: loss, gradients and taps of small BERT, OPT and ViT models in float64 with PyTorch's autograd.

Written from the equations (spec transformers 1 and 2) and not from the C code; needs PyTorch, run by hand:
    python3 model_reference.py > model_reference.json

Parameters follow a rule that both sides compute exactly (all values are multiples of 2^-20):
    h = hash(i + 0x9e3779b9 k) on 32 bits, i = element, k = rank of the parameter's name among all names sorted
    hash(x): x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16
    value = (h >> 12) 2^-20 - 1/2, in [-1/2, 1/2);  LayerNorm gains (".ln*.weight"): 1 + value
Gradients are those of the mean loss over labels.
"""
import json
import math
import sys

import torch
import torch.nn.functional as F
from torch import nn

torch.set_default_dtype(torch.float64)
B, T, V, FFN = 3, 9, 29, 20
SIDE, PATCH, CLASSES = 12, 4, 7  # images: 9 patches and the class token


def hash32(x):
    x &= 0xFFFFFFFF
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def is_gain(name):
    part = name.split(".")
    return part[-1] == "weight" and (part[-2].startswith("ln") or part[-2] == "final_ln")


def fill(shapes):
    params = {}
    for k, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        n = math.prod(shape)
        x = torch.tensor([(hash32(i + 0x9E3779B9 * k) >> 12) * 2.0**-20 - 0.5 for i in range(n)])
        params[name] = (x + 1.0 if is_gain(name) else x).reshape(shape).requires_grad_()
    return params


# ---- rows of attention -----------------------------------------------------------------------------------------------
def support(z, power):
    """Where sum over the support of (z - tau)^power = 1 puts weight; tau by bisection, not differentiated."""
    with torch.no_grad():
        hi = z.max(-1, keepdim=True).values
        lo = hi - 1.0
        for _ in range(200):
            mid = (lo + hi) / 2
            big = (z - mid).clamp(min=0).pow(power).sum(-1, keepdim=True) >= 1
            lo, hi = torch.where(big, mid, lo), torch.where(big, hi, mid)
        return z > lo


def rows(s, visible, f):
    """P = f(S) over the last axis."""
    neg = torch.full_like(s, -1e30)
    s = torch.where(visible, s, neg)
    kind = f["kind"]
    if kind == "softmax":
        p = torch.softmax(s, -1)
    elif kind == "softmax1":
        e = torch.where(visible, torch.exp(s), torch.zeros_like(s))
        p = e / (1 + e.sum(-1, keepdim=True))
    elif kind == "sparsemax":
        on = support(s, 1)
        k = on.sum(-1, keepdim=True)
        tau = (torch.where(on, s, 0 * s).sum(-1, keepdim=True) - 1) / k
        p = torch.where(on, s - tau, 0 * s)
    else:  # entmax-1.5
        z = s / 2
        on = support(z, 2)
        k = on.sum(-1, keepdim=True)
        mean = torch.where(on, z, 0 * z).sum(-1, keepdim=True) / k
        spread = torch.where(on, (z - mean) ** 2, 0 * z).sum(-1, keepdim=True)
        tau = mean - torch.sqrt((1 - spread) / k)
        p = torch.where(on, (z - tau) ** 2, 0 * z)
    if "gamma" in f:
        p = torch.clip((f["zeta"] - f["gamma"]) * p + f["gamma"], 0.0, 1.0)
    return p


# ---- the models ------------------------------------------------------------------------------------------------------
def gate_shapes(c, d):
    h, w = c["heads"], d // c["heads"]
    if c["gate"] == "none":
        return {}
    if c["gate"] == "unconditional_per_head":
        return {"alpha": (h,)}
    if c["gate_form"] == "all_features":
        return {"weight": (h, d), "bias": (h,)}
    if c["gate_form"] == "linear":
        return {"weight": (h, w), "bias": (h,)}
    m = w // 4 if c["gate_form"] == "mlp" else w
    return {"1.weight": (h, m, w), "1.bias": (h, m), "2.weight": (h, m), "2.bias": (h,)}


def shapes_of(c):
    d, e, out = c["width"], c["embed_width"], {}

    def linear(name, o, i, bias=True):
        out[name + ".weight"] = (o, i)
        if bias:
            out[name + ".bias"] = (o,)

    def norm(name, n):
        out[name + ".weight"], out[name + ".bias"] = (n,), (n,)

    vit = c["type"] == "vit"
    if vit:
        linear("embed.patch", d, 3 * PATCH * PATCH, c["patch_bias"])
        out["embed.class"], out["embed.positions"] = (1, d), ((SIDE // PATCH) ** 2 + 1, d)
        if c["pre_norm"]:
            norm("embed.ln", d)
        norm("final_ln", d)
        linear("head", CLASSES, d)
    else:
        out["embed.tokens.weight"] = (V, e)
        out["embed.positions.weight"] = (T + (2 if c["type"] == "opt" else 0), d)
    for l in range(2):
        for x in "qkv":
            linear(f"layer.{l}.attn.{x}", d, d, not vit or c["qkv_bias"])
        for name, shape in gate_shapes(c, d).items():
            out[f"layer.{l}.attn.gate.{name}"] = shape
        linear(f"layer.{l}.attn.out", d, d)
        linear(f"layer.{l}.ffn1", FFN, d)
        linear(f"layer.{l}.ffn2", d, FFN)
        norm(f"layer.{l}.ln1", d)
        norm(f"layer.{l}.ln2", d)
    if vit:
        return out
    if c["type"] == "bert":
        out["embed.types.weight"] = (2, d)
        norm("embed.ln", d)
        linear("head.transform", d, d)
        norm("head.ln", d)
        out["head.bias"] = (V,)
    else:
        if c["norm"] == "pre":
            norm("final_ln", d)
        if e != d:
            linear("project_in", d, e, False)
            linear("project_out", e, d, False)
    return out


class Model:
    def __init__(self, c):
        self.c, self.p, self.taps = c, fill(shapes_of(c)), []
        self.eps = {"bert": 1e-12, "opt": 1e-5, "vit": 1e-6}[c["type"]]

    def tap(self, name, x):
        self.taps.append((name, x.detach()))
        return x

    def linear(self, x, name):
        return F.linear(x, self.p[name + ".weight"], self.p.get(name + ".bias"))

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.p[name + ".weight"], self.p[name + ".bias"], self.eps)

    def gate(self, x, l):
        """pi as (B,T,H,1) or what broadcasts to it; what the tap sees."""
        c, h = self.c, self.c["heads"]
        q = lambda n: self.p[f"layer.{l}.attn.gate.{n}"]
        if c["gate"] == "unconditional_per_head":
            pi = torch.sigmoid(q("alpha"))
            return pi.view(1, 1, h, 1), pi
        if c["gate_form"] == "all_features":
            pi = torch.sigmoid(F.linear(x, q("weight"), q("bias")))
            return pi.unsqueeze(-1), pi
        xh = x.view(x.shape[0], x.shape[1], h, -1)
        if c["gate_form"] == "linear":
            a = (xh * q("weight")).sum(-1) + q("bias")
        else:
            hidden = torch.relu(torch.einsum("bthd,hmd->bthm", xh, q("1.weight")) + q("1.bias"))
            a = (hidden * q("2.weight")).sum(-1) + q("2.bias")
        if c["gate"] == "conditional_per_head":
            pi = torch.sigmoid(a.mean(1))  # padding is in the mean too
            return pi.view(-1, 1, h, 1), pi
        pi = torch.sigmoid(a)
        return pi.unsqueeze(-1), pi

    def attention(self, x, l, visible):
        c, h = self.c, self.c["heads"]
        split = lambda y: y.view(y.shape[0], y.shape[1], h, -1).transpose(1, 2)  # (B,H,T,D)
        q, k, v = (split(self.linear(x, f"layer.{l}.attn.{n}")) for n in "qkv")
        s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        p = rows(s, visible, c["assoc"])
        if c["assoc"]["kind"] == "softmax1":
            null = 1 / (1 + torch.where(visible, torch.exp(s), 0 * s).sum(-1))
            self.tap(f"layer.{l}.attn.null_mass", null.mean((0, 2)))
        a = (p @ v).transpose(1, 2)  # (B,T,H,D)
        if c["gate"] != "none":
            pi, seen = self.gate(x, l)
            self.tap(f"layer.{l}.attn.gate", seen.reshape(-1, h).mean(0))
            scale = 1 / c["gate_init"] if c["gate_fine_tuning"] and c["gate"] != "unconditional_per_head" else 1.0
            a = scale * pi * a
        return self.tap(f"layer.{l}.attn.out", self.linear(a.reshape(x.shape), f"layer.{l}.attn.out"))

    def bert(self, data):
        ids, mask = data["tokens"], data["mask"]
        x = F.embedding(ids, self.p["embed.tokens.weight"], padding_idx=0)
        x = x + self.p["embed.types.weight"][0] + self.p["embed.positions.weight"][:T]
        x = self.norm(x, "embed.ln")
        visible = mask.view(B, 1, 1, T).expand(B, 1, T, T)
        for l in range(2):
            n = f"layer.{l}."
            x = self.tap(n + "ln1.out", self.norm(x + self.attention(x, l, visible), n + "ln1"))
            f = self.tap(n + "ffn1.out", F.gelu(self.linear(x, n + "ffn1")))
            f = self.tap(n + "ffn.out", self.linear(f, n + "ffn2"))
            x = self.tap(n + "ln2.in", x + f)
            x = self.tap(n + "out", self.norm(x, n + "ln2"))
        x = x.reshape(B * T, -1)[data["positions"]]
        x = self.norm(F.gelu(self.linear(x, "head.transform")), "head.ln")
        logits = F.linear(x, self.p["embed.tokens.weight"], self.p["head.bias"])
        return F.cross_entropy(logits, data["labels"])

    def opt(self, data):
        ids, mask, pre = data["tokens"], data["mask"], self.c["norm"] == "pre"
        x = F.embedding(ids, self.p["embed.tokens.weight"], padding_idx=1)
        if "project_in.weight" in self.p:
            x = self.linear(x, "project_in")
        place = (mask.long().cumsum(1) * mask.long() - 1) + 2
        x = x + self.p["embed.positions.weight"][place]
        visible = mask.view(B, 1, 1, T) & torch.ones(T, T, dtype=torch.bool).tril()
        for l in range(2):
            n = f"layer.{l}."
            h = self.tap(n + "ln1.out", self.norm(x, n + "ln1")) if pre else x
            x = x + self.attention(h, l, visible)
            if not pre:
                x = self.tap(n + "ln1.out", self.norm(x, n + "ln1"))
            h = self.tap(n + "ln2.out", self.norm(x, n + "ln2")) if pre else x
            h = self.tap(n + "ffn1.out", torch.relu(self.linear(h, n + "ffn1")))
            x = x + self.tap(n + "ffn.out", self.linear(h, n + "ffn2"))
            if not pre:
                x = self.tap(n + "ln2.out", self.norm(x, n + "ln2"))
            x = self.tap(n + "out", x)
        if pre:
            x = self.tap("final_ln.out", self.norm(x, "final_ln"))
        if "project_out.weight" in self.p:
            x = self.linear(x, "project_out")
        logits = F.linear(x, self.p["embed.tokens.weight"])
        return F.cross_entropy(logits.reshape(B * T, V), data["labels"].reshape(-1), ignore_index=-1)


    def vit(self, data):
        x = (data["images"] / 255 - 0.5) / 0.5  # (B,3,S,S)
        kernel = self.p["embed.patch.weight"].view(-1, 3, PATCH, PATCH)
        x = F.conv2d(x, kernel, self.p.get("embed.patch.bias"), stride=PATCH)  # patches row by row
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.p["embed.class"].expand(B, 1, -1), x], 1) + self.p["embed.positions"]
        if self.c["pre_norm"]:
            x = self.tap("embed.ln.out", self.norm(x, "embed.ln"))
        visible = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
        for l in range(2):
            n = f"layer.{l}."
            x = x + self.attention(self.tap(n + "ln1.out", self.norm(x, n + "ln1")), l, visible)
            h = self.tap(n + "ln2.out", self.norm(x, n + "ln2"))
            h = self.tap(n + "ffn1.out", F.gelu(self.linear(h, n + "ffn1")))
            x = self.tap(n + "out", x + self.tap(n + "ffn.out", self.linear(h, n + "ffn2")))
        x = self.tap("final_ln.out", self.norm(x, "final_ln"))
        self.logits = self.linear(x[:, 0], "head")
        return -(data["targets"] * torch.log_softmax(self.logits, -1)).sum(-1).mean()


# ---- all modules of a ViT, as the published evaluation hooks them ------------------------------------------------------
# The module tree of the published model (timm's, with its attention class): names and what each returns are all that counts.
class PatchEmbed(nn.Module):
    def __init__(self, m):
        super().__init__()
        bias = m.p.get("embed.patch.bias")
        self.proj = nn.Conv2d(3, m.c["width"], PATCH, PATCH, bias=bias is not None)
        self.proj.weight = nn.Parameter(m.p["embed.patch.weight"].detach().view(-1, 3, PATCH, PATCH))
        if bias is not None:
            self.proj.bias = nn.Parameter(bias.detach())
        self.norm = nn.Identity()

    def forward(self, x):
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


def module_of(m, name):
    """A layer with the parameters of that name."""
    w, b = m.p[name + ".weight"].detach(), m.p.get(name + ".bias")
    if w.dim() == 1:
        layer = nn.LayerNorm(len(w), m.eps)
    else:
        layer = nn.Linear(w.shape[1], w.shape[0], bias=b is not None)
    layer.weight = nn.Parameter(w)
    if b is not None:
        layer.bias = nn.Parameter(b.detach())
    return layer


class HookedAttention(nn.Module):
    def __init__(self, m, l):
        super().__init__()
        self.m, self.l, n, b = [m], l, f"layer.{l}.attn.", None
        w = torch.cat([m.p[n + x + ".weight"].detach() for x in "qkv"])
        if n + "q.bias" in m.p:
            b = torch.cat([m.p[n + x + ".bias"].detach() for x in "qkv"])
        self.qkv = nn.Linear(w.shape[1], w.shape[0], bias=b is not None)
        self.qkv.weight = nn.Parameter(w)
        if b is not None:
            self.qkv.bias = nn.Parameter(b)
        self.q_norm, self.k_norm, self.attn_drop = nn.Identity(), nn.Identity(), nn.Dropout(0.0)
        self.proj, self.proj_drop = module_of(m, n + "out"), nn.Dropout(0.0)

    def forward(self, x):
        m, (B, N, C) = self.m[0], x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, m.c["heads"], -1).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        p = rows(s, torch.ones(N, N, dtype=torch.bool), m.c["assoc"])
        a = (p @ v).transpose(1, 2)
        if m.c["gate"] != "none":
            scale = 1 / m.c["gate_init"] if m.c["gate_fine_tuning"] and m.c["gate"] != "unconditional_per_head" else 1.0
            a = scale * m.gate(x, self.l)[0] * a
        return self.proj_drop(self.proj(a.reshape(B, N, C)))


class Mlp(nn.Module):
    def __init__(self, m, l):
        super().__init__()
        self.fc1, self.act, self.drop1, self.norm = module_of(m, f"layer.{l}.ffn1"), nn.GELU(), nn.Dropout(0.0), nn.Identity()
        self.fc2, self.drop2 = module_of(m, f"layer.{l}.ffn2"), nn.Dropout(0.0)

    def forward(self, x):
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1(x))))))


class HookedBlock(nn.Module):
    def __init__(self, m, l):
        super().__init__()
        self.norm1, self.attn = module_of(m, f"layer.{l}.ln1"), HookedAttention(m, l)
        self.norm2, self.mlp = module_of(m, f"layer.{l}.ln2"), Mlp(m, l)
        self.ls1, self.drop_path1, self.ls2, self.drop_path2 = (nn.Identity() for _ in range(4))

    def forward(self, x):
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class Hooked(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.m, self.patch_embed, self.blocks = [m], PatchEmbed(m), nn.Sequential(*(HookedBlock(m, l) for l in range(2)))
        self.pos_drop, self.patch_drop, self.fc_norm, self.head_drop = nn.Dropout(0.0), nn.Identity(), nn.Identity(), nn.Dropout(0.0)
        self.norm_pre = module_of(m, "embed.ln") if m.c["pre_norm"] else nn.Identity()
        self.norm, self.head = module_of(m, "final_ln"), module_of(m, "head")

    def forward(self, x):
        m = self.m[0]
        x = self.patch_embed((x / 255 - 0.5) / 0.5)
        x = torch.cat([m.p["embed.class"].detach().expand(len(x), 1, -1), x], 1) + m.p["embed.positions"].detach()
        x = self.norm(self.blocks(self.norm_pre(self.patch_drop(self.pos_drop(x)))))
        return self.head(self.head_drop(self.fc_norm(x[:, 0])))


def kurtosis(x):
    d = x - x.mean(1, keepdim=True)
    return d.pow(4).mean(1) / (x.std(1).pow(4) + 1e-6)  # unbiased


def all_modules(m, data):
    hooked, seen = Hooked(m).eval(), {}
    for name, module in hooked.named_modules():
        module.register_forward_hook(lambda mod, i, out, name=name: seen.__setitem__(name, out.detach().flatten(1)))
    with torch.no_grad():
        logits = hooked(data["images"])
    assert (logits - m.logits).abs().max() < 1e-10
    seen = {n: x for n, x in seen.items() if "attn_drop" not in n}
    assert len(seen) == 12 + 2 * 20, len(seen)
    k = {n: kurtosis(x).mean().item() for n, x in seen.items()}
    inf = {n: x.abs().amax(1).mean().item() for n, x in seen.items()}
    return {"n": len(seen), "kurtosis": sum(k.values()) / len(k), "max_kurtosis": max(k.values()),
            "ffn_inf_norm": max(v for n, v in inf.items() if "mlp" in n)}


# ---- cases -----------------------------------------------------------------------------------------------------------
ASSOC = {
    "vanilla": {"kind": "softmax"},
    "softmax1": {"kind": "softmax1"},
    "clipped(-.025:1)": {"kind": "softmax", "gamma": -0.025, "zeta": 1.0},
    "clippedsoftmax1(-.025:1.1)": {"kind": "softmax1", "gamma": -0.025, "zeta": 1.1},
    "entmax15": {"kind": "entmax15"},
    "sparsemax": {"kind": "sparsemax"},
}


def case(type, attention="vanilla", gate="none", form="linear", width=18, embed=None, norm=None, init=0.5,
         fine=False, padded=False):
    return {"type": type, "attention": attention, "assoc": ASSOC[attention], "gate": gate, "gate_form": form,
            "gate_init": init, "gate_fine_tuning": fine, "width": width, "embed_width": embed or width, "heads": 3,
            "norm": norm or ("post" if type == "bert" else "pre"), "padded": padded}


def image_case(attention="vanilla", patch_bias=False, qkv_bias=False, pre_norm=True, **rest):
    return case("vit", attention, **rest) | {"patch_bias": patch_bias, "qkv_bias": qkv_bias, "pre_norm": pre_norm}


HEAD, TOKEN, FREE = "conditional_per_head", "conditional_per_token", "unconditional_per_head"
CASES = [case(t, a) for t in ("bert", "opt") for a in ASSOC] + [
    case("bert", gate=FREE),
    case("bert", gate=HEAD),
    case("bert", gate=HEAD, form="mlp", width=24),
    case("bert", gate=HEAD, form="mlp2"),
    case("bert", gate=TOKEN),
    case("bert", gate=TOKEN, form="mlp", width=24),
    case("bert", gate=TOKEN, form="mlp2"),
    case("bert", gate=TOKEN, form="all_features"),
    case("bert", gate=HEAD, form="all_features"),  # works per token
    case("bert", "softmax1", gate=TOKEN, form="mlp", width=24),
    case("opt", "softmax1", gate=TOKEN, init=0.25),
    case("opt", "softmax1", gate=HEAD, form="mlp2"),
    case("opt", "clipped(-.025:1)", gate=TOKEN, form="all_features"),
    case("opt", "clipped(-.025:1)", gate=HEAD, init=0.25, fine=True),
    case("opt", "clippedsoftmax1(-.025:1.1)", gate=FREE, fine=True),
    case("opt", "entmax15", gate=TOKEN, form="mlp2", init=0.125, fine=True),
    case("opt", "softmax1", embed=12),
    case("opt", "softmax1", norm="post"),
    case("opt", "vanilla", norm="post", embed=30),
    case("bert", "vanilla", padded=True),
    case("bert", "softmax1", gate=HEAD, padded=True),
    case("bert", "clipped(-.025:1)", padded=True),
    case("bert", "entmax15", gate=TOKEN, padded=True),
    case("bert", "sparsemax", padded=True),
    case("opt", "softmax1", padded=True),
    case("opt", "vanilla", gate=TOKEN, padded=True),
] + [image_case(a) for a in ASSOC] + [
    image_case(patch_bias=True, qkv_bias=True, pre_norm=False),
    image_case("softmax1", qkv_bias=True),
    image_case("softmax1", patch_bias=True, gate=TOKEN, init=0.25),
    image_case("softmax1", pre_norm=False, gate=HEAD, form="mlp", width=24),
    image_case("clipped(-.025:1)", gate=TOKEN, form="all_features"),
    image_case("entmax15", gate=FREE, fine=True),
]


def images(c):
    """Bytes as pixels, rows top to bottom, R G B interleaved; soft targets that add up to 1."""
    pixels = torch.tensor([hash32(5000 + i) % 256 for i in range(B * SIDE * SIDE * 3)]).view(B, SIDE, SIDE, 3)
    weights = torch.tensor([[float(1 + hash32(7000 + b * CLASSES + k) % 16) for k in range(CLASSES)] for b in range(B)])
    return {"images": pixels.permute(0, 3, 1, 2), "targets": weights / weights.sum(1, keepdim=True)}


def batch(c):
    """Token ids with [PAD] among them; BERT: every fifth or so position is predicted; OPT: the next token."""
    lengths = [T, 5, 7] if c["padded"] else [T] * B
    mask = torch.tensor([[t < n for t in range(T)] for n in lengths])
    pad = 0 if c["type"] == "bert" else 1
    ids = torch.tensor([[hash32(1000 + b * T + t) % V for t in range(T)] for b in range(B)])
    ids[1, 2] = pad
    ids = torch.where(mask, ids, torch.full_like(ids, pad))
    out = {"tokens": ids, "mask": mask}
    if c["type"] == "bert":
        places = [b * T + t for b in range(B) for t in range(lengths[b]) if hash32(2000 + b * T + t) % 3 == 0]
        out["positions"] = torch.tensor(places)
        out["labels"] = torch.tensor([hash32(3000 + i) % V for i in places])
    else:
        labels = torch.full_like(ids, -1)
        for b in range(B):
            labels[b, : lengths[b] - 1] = ids[b, 1 : lengths[b]]
        out["labels"] = labels
    return out


def number(x):
    return float(f"{x:.9g}")


def main():
    out = {"comment": "made by model_reference.py", "rows": B, "tokens": T, "vocab_size": V, "ffn": FFN, "layers": 2, "image_size": SIDE, "patch": PATCH, "classes": CLASSES,
           "batches": {}, "cases": []}
    for c in CASES:
        image = c["type"] == "vit"
        model, data = Model(c), images(c) if image else batch(c)
        loss = getattr(model, c["type"])(data)
        loss.backward()
        name = c["type"] + ("-padded" if c["padded"] else "")
        if image:
            out["batches"][name] = {"images": data["images"].permute(0, 2, 3, 1).flatten().tolist(),
                                    "targets": data["targets"].flatten().tolist()}
        else:
            out["batches"][name] = {k: v.int().flatten().tolist() for k, v in data.items()}
        total = math.sqrt(sum(p.grad.pow(2).sum().item() for p in model.p.values() if p.grad is not None))
        head = {k: v for k, v in c.items() if k != "assoc"} | {"batch": name, "loss": loss.item(), "grad_norm": total}
        if image:  # evaluation: plain cross-entropy against the class of largest weight
            labels = data["targets"].argmax(1)
            rank = (model.logits > model.logits.gather(1, labels[:, None])).sum(1)
            head |= {"eval_loss": F.cross_entropy(model.logits, labels).item(), "labels": labels.tolist(),
                     "top1": int((rank < 1).sum()), "top5": int((rank < 5).sum()), "modules": all_modules(model, data)}
        # A padded OPT row's taps depend on what is done at the pads, which no loss sees.
        taps = [] if c["padded"] and c["type"] == "opt" else model.taps
        head["taps"] = [
            {"name": n, "mean": [number(v) for v in x.tolist()]} if x.dim() == 1
            else {"name": n, "norm": number(x.norm().item()), "max": number(x.abs().max().item())} for n, x in taps]
        head["grad"] = {n: [float(f"{v:.7g}") for v in p.grad.flatten().tolist()] for n, p in sorted(model.p.items())}
        out["cases"].append(head)
        print(f"{len(out['cases']):3d} {c['type']} {c['attention']} {c['gate']}/{c['gate_form']} {c['norm']} "
              f"loss {loss.item():.9f} |grad| {total:.4f}", file=sys.stderr)
    json.dump(out, sys.stdout, separators=(",", ":"))
    print()


main()
