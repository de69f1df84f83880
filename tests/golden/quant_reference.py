#!/usr/bin/env python3
"""Makes quant_reference.json: post-training quantization of small BERT, OPT and ViT models by the sequential procedure, in float64
with numpy alone.

Written from the equations (spec transformers 1, 2 and 5), not from the C code; run by hand:
    python3 quant_reference.py > quant_reference.json

Parameters follow the rule of model_reference.py: value = (hash32(i + 0x9e3779b9 k) >> 12) 2^-20 - 1/2 with k the rank of the
name among all names sorted; LayerNorm gains 1 + value. Linear weights are halved, so that attention is not one-hot. Two calibration batches:
each site's range takes its tensor in, then the tensor is quantized with the updated range. Afterwards both batches are evaluated
with fixed ranges, and the noise of every site is measured on the second. Float32 may round a value to the other side of a tie,
after which the two runs differ by parts of a step; so of TRIES pairs of batches that one is taken which comes least near to ties.
"""
import json
import math
import sys

import numpy as np

B, T, V, D, H, F, L = 4, 10, 31, 16, 4, 24, 2
SIDE, PATCH, CLASSES = 9, 3, 7  # nine patches and the class token: T
SMALL = 0.5
TRIES = 60


def hash32(x):
    x &= 0xFFFFFFFF
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


# ---- quantizers and ranges ---------------------------------------------------------------------------------------------
class Quantizer:
    def __init__(self, symmetric, signed, bits, lo, hi):
        self.lo, self.hi = float(lo), float(hi)
        low, high = min(lo, 0.0), max(hi, 1e-8)
        if symmetric:
            top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
            self.codes = (-(2 ** (bits - 1)) if signed else 0, top)
            self.step, self.zero = max(max(-low, high) / top, 1e-8), 0
        else:
            top = 2**bits - 1
            self.codes = (0, top)
            step = (high - low) / top
            self.zero = int(np.clip(np.rint(-low / step), 0, top))
            self.step = max(step, 1e-8)

    def __call__(self, x):
        return self.step * (np.clip(np.rint(x / self.step) + self.zero, *self.codes) - self.zero)


class Range:
    """One estimator; the kinds of the keys quant.*_ranges."""

    def __init__(self, kind, symmetric, bits, percentile=0.0, margin=0.5):
        self.kind, self.symmetric, self.bits, self.percentile, self.margin = kind, symmetric, bits, percentile, margin
        self.seen, self.loss = False, None

    def quantizer(self, lo, hi):
        return Quantizer(self.symmetric, lo < 0, self.bits, lo, hi)

    def update(self, x):
        if self.kind == "mse":
            self.grid(x)
        else:
            p = self.percentile
            new = np.percentile(x, (100 - p, p)) if p else np.array([x.min(), x.max()])
            running = self.kind == "running_minmax" and self.seen
            self.range = 0.9 * self.range + 0.1 * new if running else new
        self.seen = True
        return self.quantizer(*self.range)

    def grid(self, x):
        if self.loss is None:
            self.one_sided = x.min() >= 0
            self.thick = (np.abs(x).max() + self.margin) / 100
            self.loss = np.zeros(100)
        ranges = [(0.0 if self.one_sided else -self.thick * i, self.thick * i) for i in range(1, 101)]
        self.loss += [((x - self.quantizer(*r)(x)) ** 2).sum() for r in ranges]
        self.range = np.array(ranges[int(np.argmin(self.loss))])


# ---- the network ---------------------------------------------------------------------------------------------------------
def shapes(c):
    e, out = c["embed_width"], {}

    def linear(name, o, i, bias=True):
        out[name + ".weight"] = (o, i)
        if bias:
            out[name + ".bias"] = (o,)

    def norm(name):
        out[name + ".weight"], out[name + ".bias"] = (D,), (D,)

    vit = c["type"] == "vit"
    if not vit:
        out["embed.tokens.weight"] = (V, e)
        out["embed.positions.weight"] = (T + (2 if c["type"] == "opt" else 0), D)
    for l in range(L):
        for n in ("q", "k", "v", "out"):
            linear(f"layer.{l}.attn.{n}", D, D, n == "out" or not vit or c["qkv_bias"])
        if c["gate"]:
            out[f"layer.{l}.attn.gate.weight"], out[f"layer.{l}.attn.gate.bias"] = (H, D // H), (H,)
        linear(f"layer.{l}.ffn1", F, D)
        linear(f"layer.{l}.ffn2", D, F)
        norm(f"layer.{l}.ln1")
        norm(f"layer.{l}.ln2")
    if vit:
        linear("embed.patch", D, 3 * PATCH * PATCH, c["patch_bias"])
        out["embed.class"], out["embed.positions"] = (1, D), (T, D)
        if c["pre_norm"]:
            norm("embed.ln")
        norm("final_ln")
        linear("head", CLASSES, D)
    elif c["type"] == "bert":
        out["embed.types.weight"] = (2, D)
        norm("embed.ln")
        linear("head.transform", D, D)
        norm("head.ln")
        out["head.bias"] = (V,)
    else:
        if c["norm"] == "pre":
            norm("final_ln")
        if e != D:
            linear("project_in", D, e, False)
            linear("project_out", e, D, False)
    return out


def parameters(c):
    out, all_shapes = {}, shapes(c)
    for k, name in enumerate(sorted(all_shapes)):
        x = np.array([(hash32(i + 0x9E3779B9 * k) >> 12) * 2.0**-20 - 0.5 for i in range(math.prod(all_shapes[name]))])
        part = name.split(".")
        if part[-1] == "weight" and (part[-2].startswith("ln") or part[-2] == "final_ln"):
            x = x + 1
        elif part[-1] == "weight":
            x = x * SMALL
        out[name] = x.reshape(all_shapes[name])
    return out


erf = np.vectorize(math.erf)


class Net:
    def __init__(self, c):
        self.c, self.exact, self.est, self.q, self.weights = c, parameters(c), {}, {}, {}
        for l in range(L if c["type"] == "vit" else 0):  # q, k, v are one layer
            for kind in ("weight", "bias") if c["qkv_bias"] else ("weight",):
                self.exact[f"layer.{l}.attn.qkv.{kind}"] = np.concatenate([self.exact[f"layer.{l}.attn.{i}.{kind}"] for i in "qkv"])
        self.p = dict(self.exact)
        self.mode, self.noise, self.order = "calibrate", {}, []
        self.tie = 1.0  # how near any value came to lying half-way between two codes, in steps
        self.eps = {"bert": 1e-12, "opt": 1e-5, "vit": 1e-6}[c["type"]]

    def bits(self, kind, bits):
        setup = self.c["setup"]
        sixteen = setup == "fp32_head+int16_all_LN" and kind in ("norm", "final_norm")
        sixteen |= setup == "fp32_head+int16_final_LN" and kind == "final_norm"
        return 0 if bits == 0 else 16 if sixteen else bits

    # sites
    def weight(self, name, kind):
        """The parameter, quantized; ranged once."""
        bits = self.bits(kind, self.c["weights"])
        if bits and name not in self.weights:
            w = self.exact[name]
            rows = w if self.c["per_channel"] and w.ndim > 1 else w.reshape(1, -1)
            qs = []
            for row in rows:
                r = Range(self.c["weight_ranges"], True, bits, margin=0.5 if self.c["mse_margin"] == "absolute" else 0.0)
                r.update(row)
                qs.append(Quantizer(True, w.min() < 0, bits, *r.range))
            self.weights[name] = qs
            self.p[name] = np.stack([q(row) for q, row in zip(qs, rows)]).reshape(w.shape)
        return self.p[name]

    def act(self, name, x, kind, show=None):
        bits = self.bits(kind, self.c["activations"])
        if not bits:
            return x
        seen = x if show is None else x[show]
        if self.mode == "calibrate":
            if name not in self.est:
                self.order.append(name)
                self.est[name] = Range(self.c["activation_ranges"], self.c["activation_method"] == "symmetric", bits,
                                       self.c["percentile"], 0.5 if self.c["mse_margin"] == "absolute" else 0.0)
            self.q[name] = self.est[name].update(seen)
        elif self.mode == "diagnose":
            self.noise[name] = ((seen - self.q[name](seen)) ** 2).sum(), (seen**2).sum()
        ratio = x / self.q[name].step
        self.tie = min(self.tie, np.abs(ratio - np.floor(ratio) - 0.5).min())
        return self.q[name](x)

    # layers
    def linear(self, name, x, site, act=None):
        y = x @ self.weight(name + ".weight", "linear").T + self.exact.get(name + ".bias", 0.0)
        if act == "gelu":
            y = 0.5 * y * (1 + erf(y / math.sqrt(2)))
        if act == "relu":
            y = np.maximum(y, 0)
        return self.act(site, y, "activation" if act else "linear")

    def ln(self, x, gain, bias):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + self.eps) * gain + bias

    def norm(self, name, x, site, kind="norm"):
        return self.act(site, self.ln(x, self.weight(name + ".weight", kind), self.exact[name + ".bias"]), kind)

    def f(self, s, visible):
        s = np.where(visible, s, -np.inf)
        e = np.exp(s)
        p = e / (e.sum(-1, keepdims=True) + (1 if "softmax1" in self.c["attention"] else 0))
        if self.c["attention"] == "clipped(-.1:1)":
            p = np.where(visible, np.clip(1.1 * p - 0.1, 0, 1), 0)
        return p

    def attention(self, l, x, visible):
        n = f"layer.{l}.attn."
        split = lambda y: y.reshape(B, T, H, -1).transpose(0, 2, 1, 3)
        if self.c["type"] == "vit":
            q, k, v = (split(y) for y in np.split(self.linear(n + "qkv", x, n + "qkv"), 3, -1))
        else:
            q, k, v = (split(self.linear(n + i, x, n + i)) for i in "qkv")
        s = q @ k.transpose(0, 1, 3, 2) / math.sqrt(D // H)
        show = None if self.c["include_masked_scores"] else np.broadcast_to(visible, s.shape)
        s = self.act(n + "scores", s, "scores", show)
        p = self.act(n + "probs", self.f(s, visible), "probs")
        a = (p @ v).transpose(0, 2, 1, 3)
        opt = self.c["type"] == "opt"
        context = lambda y: self.act(n + "context", y.reshape(B, T, D), "context").reshape(B, T, H, -1)
        if opt:
            a = context(a)
        if self.c["gate"]:
            xh = x.reshape(B, T, H, -1)
            pi = 1 / (1 + np.exp(-((xh * self.exact[n + "gate.weight"]).sum(-1) + self.exact[n + "gate.bias"])))
            a = pi[..., None] * a
        if not opt:
            a = context(a)
        return self.linear(n + "out", a.reshape(B, T, D), n + "out")

    def bert(self, data):
        visible = data["mask"].astype(bool)[:, None, None, :]
        x = self.weight("embed.tokens.weight", "embedding")[data["tokens"]]
        x = self.act("embed.types", x + self.weight("embed.types.weight", "embedding")[0], "embedding")
        x = self.act("embed.sum", x + self.weight("embed.positions.weight", "embedding")[:T], "embedding")
        x = self.norm("embed.ln", x, "embed.ln.out")
        for l in range(L):
            n = f"layer.{l}."
            x = self.act(n + "ln1.in", x + self.attention(l, x, visible), "residual")
            x = self.norm(n + "ln1", x, n + "ln1.out")
            f = self.linear(n + "ffn2", self.linear(n + "ffn1", x, n + "ffn1.out", "gelu"), n + "ffn.out")
            x = self.norm(n + "ln2", self.act(n + "ln2.in", x + f, "residual"), n + "out")
        x = x.reshape(B * T, D)[data["positions"]]
        t = x @ self.exact["head.transform.weight"].T + self.exact["head.transform.bias"]
        t = self.ln(0.5 * t * (1 + erf(t / math.sqrt(2))), self.exact["head.ln.weight"], self.exact["head.ln.bias"])
        return t @ self.exact["embed.tokens.weight"].T + self.exact["head.bias"]

    def opt(self, data):
        pre = self.c["norm"] == "pre"
        visible = data["mask"].astype(bool)[:, None, None, :] & np.tril(np.ones((T, T), bool))
        x = self.weight("embed.tokens.weight", "embedding")[data["tokens"]]
        if "project_in.weight" in self.p:
            x = self.linear("project_in", x, "embed.project_in")
        x = self.act("embed.sum", x + self.weight("embed.positions.weight", "embedding")[2 : T + 2], "embedding")
        for l in range(L):
            n = f"layer.{l}."
            h = self.norm(n + "ln1", x, n + "ln1.out") if pre else x
            x = self.act(n + "residual1", x + self.attention(l, h, visible), "residual")
            if not pre:
                x = self.norm(n + "ln1", x, n + "ln1.out")
            h = self.norm(n + "ln2", x, n + "ln2.out") if pre else x
            h = self.linear(n + "ffn2", self.linear(n + "ffn1", h, n + "ffn1.out", "relu"), n + "ffn.out")
            x = self.act(n + ("out" if pre else "residual2"), x + h, "residual")
            if not pre:
                x = self.norm(n + "ln2", x, n + "ln2.out")
        if pre:
            x = self.norm("final_ln", x, "final_ln.out", "final_norm")
        if "project_out.weight" in self.p:
            x = self.linear("project_out", x, "head.project_out")
        table = (self.p if self.c["setup"] == "all" else self.exact)["embed.tokens.weight"]
        logits = x @ table.T
        return self.act("head.logits", logits, "logits") if self.c["setup"] == "all" else logits

    def vit(self, data):
        x = (data["images"] / 255 - 0.5) / 0.5  # (B,S,S,3)
        n = SIDE // PATCH
        x = x.reshape(B, n, PATCH, n, PATCH, 3).transpose(0, 1, 3, 5, 2, 4).reshape(B, n * n, 3 * PATCH * PATCH)
        x = self.linear("embed.patch", x, "embed.patch")
        x = np.concatenate([np.broadcast_to(self.exact["embed.class"], (B, 1, D)), x], 1) + self.exact["embed.positions"]
        x = self.act("embed.sum", x, "embedding")
        if self.c["pre_norm"]:
            x = self.norm("embed.ln", x, "embed.ln.out")
        for l in range(L):
            n = f"layer.{l}."
            x = self.act(n + "residual1", x + self.attention(l, self.norm(n + "ln1", x, n + "ln1.out"), np.ones((T, T), bool)), "residual")
            h = self.norm(n + "ln2", x, n + "ln2.out")
            h = self.linear(n + "ffn2", self.linear(n + "ffn1", h, n + "ffn1.out", "gelu"), n + "ffn.out")
            x = self.act(n + "out", x + h, "residual")
        x = self.norm("final_ln", x, "final_ln.out", "final_norm")[:, 0]
        whole = self.c["setup"] == "all"
        w = self.weight("head.weight", "linear") if whole else self.exact["head.weight"]
        logits = x @ w.T + self.exact["head.bias"]
        return self.act("head.logits", logits, "logits") if whole else logits

    def loss(self, data):
        logits = getattr(self, self.c["type"])(data)
        logits = logits.reshape(-1, logits.shape[-1])
        labels = data["labels"].reshape(-1)
        keep = labels >= 0
        z = logits[keep] - logits[keep].max(-1, keepdims=True)
        return float((np.log(np.exp(z).sum(-1)) - z[np.arange(keep.sum()), labels[keep]]).mean())


# ---- data and cases ------------------------------------------------------------------------------------------------------
def batch(c, number):
    if c["type"] == "vit":
        pixels = [hash32(0x89ABCDE * (number + 1) + i) & 255 for i in range(B * SIDE * SIDE * 3)]
        return {"images": np.array(pixels).reshape(B, SIDE, SIDE, 3), "labels": np.array([hash32(number + 5 * i) % CLASSES for i in range(B)])}
    ids = np.array([hash32(0x1234567 * (number + 1) + i) % (V - 5) + 5 for i in range(B * T)]).reshape(B, T)
    length = np.array([T, T - 3, T, 4]) if c["padded"] else np.full(B, T)
    mask = np.arange(T)[None, :] < length[:, None]
    ids = np.where(mask, ids, 0 if c["type"] == "bert" else 1)
    out = {"tokens": ids, "mask": mask.astype(int)}
    if c["type"] == "bert":
        at = np.array([i for i in range(B * T) if mask.reshape(-1)[i] and hash32(i + 77 + 1000 * number) % 4 == 0])
        out["positions"], out["labels"] = at, ids.reshape(-1)[at]
        out["tokens"] = ids.copy()
        out["tokens"].reshape(-1)[at] = 4
    else:
        labels = np.full((B, T), -1)
        for b in range(B):
            labels[b, : length[b] - 1] = ids[b, 1 : length[b]]
        out["labels"] = labels
    return out


BASE = dict(type="opt", norm="pre", attention="vanilla", gate=False, embed_width=D, padded=False, weights=8, activations=8,
            setup="fp32_head", weight_ranges="minmax", per_channel=False, activation_ranges="running_minmax",
            activation_method="asymmetric", percentile=0.0, mse_margin="absolute", include_masked_scores=True)
CASES = [BASE | c for c in [
    dict(),
    dict(attention="softmax1", setup="all", percentile=99.0, gate=True),
    dict(attention="clipped(-.1:1)", embed_width=12, setup="fp32_head+int16_all_LN", weights=6, activations=6),
    dict(attention="softmax1", setup="fp32_head+int16_final_LN", activation_ranges="minmax", include_masked_scores=False,
         weights=4, weight_ranges="mse", mse_margin="relative"),
    dict(norm="post", activation_method="symmetric", activation_ranges="mse", weight_ranges="mse", per_channel=True),
    dict(padded=True, include_masked_scores=False),
    dict(activations=0, weights=4, per_channel=True),
    dict(weights=0, activations=7),
    dict(weights=16, activations=16, setup="all", activation_ranges="minmax"),
    dict(type="bert", norm="post"),
    dict(type="bert", norm="post", attention="softmax1", gate=True, percentile=99.9, weights=6),
    dict(type="bert", norm="post", padded=True, include_masked_scores=False, attention="softmax1", weight_ranges="mse"),
    dict(type="bert", norm="post", attention="clipped(-.1:1)", activation_ranges="mse", activation_method="symmetric", weights=4),
    dict(type="vit"),
    dict(type="vit", attention="softmax1", gate=True, percentile=99.9, setup="all", patch_bias=True, qkv_bias=True),
    dict(type="vit", attention="clipped(-.1:1)", setup="fp32_head+int16_all_LN", per_channel=True, weights=6, pre_norm=False),
    dict(type="vit", attention="softmax1", setup="fp32_head+int16_final_LN", activation_ranges="mse", activation_method="symmetric",
         weight_ranges="mse", weights=4),
]]
IMAGES = dict(patch_bias=False, qkv_bias=False, pre_norm=True)
CASES = [IMAGES | c if c["type"] == "vit" else c for c in CASES]


def try_batches(c, data):
    net = Net(c)
    calibration = [net.loss(d) for d in data]
    net.mode = "diagnose"
    return net, data, calibration, [net.loss(d) for d in data]


def main():
    out = {"comment": "made by quant_reference.py", "rows": B, "tokens": T, "vocab_size": V, "width": D, "heads": H, "ffn": F,
           "layers": L, "image_size": SIDE, "patch": PATCH, "classes": CLASSES, "small": SMALL, "cases": []}
    for c in CASES:
        exact = Net(c | {"weights": 0, "activations": 0})
        tries = [(try_batches(c, [batch(c, 2 * i + k) for k in range(2)])) for i in range(TRIES)]
        net, data, calibration, fixed = max(tries, key=lambda t: t[0].tie)
        head = dict(c)
        head["batches"] = [{k: v.flatten().tolist() for k, v in d.items()} for d in data]
        head["fp_loss"] = [exact.loss(d) for d in data]
        head["calibration_loss"], head["loss"] = calibration, fixed
        head["sites"] = [{"name": n, "lo": net.q[n].lo, "hi": net.q[n].hi, "step": net.q[n].step, "zero": net.q[n].zero,
                          "noise": net.noise[n][0], "signal": net.noise[n][1]} for n in net.order]
        head["weight_sites"] = [{"name": n, "step": [q.step for q in qs], "low": qs[0].codes[0]} for n, qs in net.weights.items()]
        out["cases"].append(head)
        print(f"{len(out['cases']):2d} {c['type']} {c['attention']} W{c['weights']}A{c['activations']} {c['setup']}: "
              f"exact {head['fp_loss'][1]:.6f} quantized {fixed[1]:.6f} tie {net.tie:.1e}", file=sys.stderr)
    json.dump(out, sys.stdout, separators=(",", ":"))
    print()


main()
