"""Writes run folders as ohtrain train and ohtrain eval leave them (src/outliers/report.c, src/quant), with known numbers, for
the tests of ohtrain report. usage: report_runs.py many|few FOLDER [DATA.h5]"""
import os
import sys

import h5py
import numpy as np

TAPS = {"opt": ["ln1.out", "attn.out", "ln2.out", "ffn1.out", "ffn.out", "out"],
        "bert": ["attn.out", "ln1.out", "ffn1.out", "ffn.out", "ln2.in", "out"]}
SITES = ["attn.q", "attn.k", "attn.v", "attn.scores", "attn.probs", "attn.context", "attn.out", "ln1.out", "ffn1.out", "ffn.out", "out"]


def config(model, attention, gate, seed, layers, heads, steps, data):
    text = f"model:\n  type: {model}\n  layers: {layers}\n  width: {16 * heads}\n  heads: {heads}\n  ffn: 64\n  attention: \"{attention}\"\n"
    text += "  norm: post\n" if model == "bert" else ""
    text += f"  gate: {gate}\n"
    text += f"data:\n  path: \"{data}\"\ntrain:\n  steps: {steps}\n  seed: {seed}\n"
    return text


def strings(group, name, values):
    group.create_dataset(name, data=values, dtype=h5py.string_dtype())


def run(folder, model="opt", attention="vanilla", gate="none", seed=1000, layers=12, heads=12, steps=200, done=None, rows=40,
        quant=False, data="nowhere.h5", scale=1.0):
    rng = np.random.default_rng([seed, layers, sum(attention.encode()), gate != "none"])
    os.makedirs(folder)
    text = config(model, attention, gate, seed, layers, heads, steps, data)
    with open(folder + "/config.yaml", "w") as f:
        f.write(text)
    taps = [f"layer.{l}.{p}" for l in range(layers) for p in TAPS[model]] + ["final_ln.out"]
    K = len(taps)
    with h5py.File(folder + "/outliers.h5", "w", libver="latest") as f:
        f.attrs["format"] = "ohtrain-outliers"
        f.attrs["format_version"] = np.int64(1)
        f.attrs["config"] = text
        a = f.create_group("activations")
        a["step"] = np.linspace(1, steps, rows).astype("i8")
        strings(a, "tap", taps)
        growth = np.linspace(1, 10, rows)[:, None] * np.linspace(1, 5, K)[None, :] * scale
        a["inf_norm_mean"] = (growth * (1 + 0.05 * rng.standard_normal((rows, K)))).astype("f4")
        a["inf_norm_max"] = 1.5 * a["inf_norm_mean"][:]
        a["kurtosis"] = a["inf_norm_mean"][:] ** 2 + 3
        t = f.create_group("train")
        t["step"] = np.arange(1, steps + 1)
        t["loss"] = 3 + 6 * np.exp(-np.arange(steps) / 50) + 0.05 * rng.standard_normal(steps)
        for n, step in enumerate([steps // 2, done or steps]):
            e = f.create_group(f"eval/{n}")
            inf = (np.linspace(1, 60, K) * scale * (1 + 0.05 * rng.standard_normal(K))).astype("f4")
            kurtosis = (inf**2 + 3).astype("f4")
            strings(e, "tap", taps)
            e["inf_norm_mean"], e["inf_norm_max"], e["kurtosis"] = inf, inf * 2, kurtosis
            e["max_sample"], e["max_token"], e["max_channel"] = np.arange(K), np.full(K, 5, "i4"), np.arange(K, dtype="i4") % 7
            loss = 3 + 0.1 * rng.random() * scale
            out = max(inf[k] for k in range(K) if taps[k].startswith("layer.") and taps[k].endswith(".out") and taps[k].count(".") == 2)
            ffn = max(inf[k] for k in range(K) if taps[k].endswith("ffn.out"))
            values = dict(loss=loss, perplexity=np.exp(loss), avg_kurtosis=kurtosis.mean(), max_kurtosis=kurtosis.max(), max_inf_norm=inf.max(),
                          max_ffn_inf_norm=ffn, max_layer_inf_norm=out)
            for key, value in values.items():
                e.attrs[key] = np.float64(value)
            e.attrs["step"], e.attrs["sequences"] = np.int64(step), np.int64(64)
            if attention == "softmax1" or attention.startswith("clippedsoftmax1"):
                e["null_mass"] = rng.random((layers, heads)).astype("f4")
            if gate != "none":
                e["gate_mean"] = rng.random((layers, heads)).astype("f4")
        if quant:
            for n, bits in enumerate(["8", "6"]):
                q = f.create_group(f"quant/{n}")
                q.attrs["quant.weights"], q.attrs["quant.activations"] = bits, bits
                q.attrs["sequences"] = np.int64(64)
                q.attrs["step"], q.attrs["perplexity"] = np.int64(done or steps), np.float64(values["perplexity"] * (1.5 if bits == "8" else 9))
                sites = [f"layer.{l}.{p}" for l in range(layers) for p in SITES] + ["logits"]
                for part in ("activations", "weights"):
                    strings(q, part + "/site", sites)
                    q[part + "/sqnr_db"] = 20 + 15 * rng.random(len(sites))
                q["activations/sqnr_db"][0] = np.inf
                strings(q, "sensitivity/group", [f"layer.{l}.ffn.out" for l in range(layers)])
                q["sensitivity/recovered"] = np.sort(rng.random(layers))[::-1]
                q["sensitivity"].attrs["level"] = "site"


METHODS = [("v", "vanilla", "none"), ("s", "softmax1", "none"), ("c", "clipped(-.025:1)", "none"), ("cs", "clippedsoftmax1(-.025:1)", "none"),
           ("g", "vanilla", "conditional_per_token"), ("gs", "softmax1", "conditional_per_token")]

if __name__ == "__main__":
    kind, folder = sys.argv[1:3]
    data = sys.argv[3] if len(sys.argv) > 3 else "nowhere.h5"
    if kind == "many":  # 24 runs of 12 layers
        for model in ("opt", "bert"):
            for seed in (1, 2):
                for n, (name, attention, gate) in enumerate(METHODS):
                    run(f"{folder}/{model}-{name}-seed{seed}", model, attention, gate, seed, quant=seed == 1, data=data, scale=2 - 0.2 * n, rows=400,
                        steps=2000)
    else:
        small = dict(layers=3, heads=2, data=data)
        for seed in (1, 2, 3):
            run(f"{folder}/v{seed}", seed=seed, quant=True, **small)
            run(f"{folder}/s{seed + 1}", attention="softmax1", seed=seed + 1, quant=True, scale=0.5, **small)  # two seeds in common
        run(f"{folder}/entmax", attention="entmax15", seed=1, **small)
        run(f"{folder}/bert", model="bert", seed=1, **small)
        run(f"{folder}/half", attention="softmax1", seed=9, done=120, **small)
        run(f"{folder}/future", seed=7, **small)
        with h5py.File(f"{folder}/future/outliers.h5", "r+") as f:
            f.attrs["format_version"] = np.int64(2)
        run(f"{folder}/mixed", seed=7, **small)
        run(f"{folder}/other", model="bert", seed=7, **small)
        os.replace(f"{folder}/other/outliers.h5", f"{folder}/mixed/outliers.h5")
        run(f"{folder}/torn", seed=7, **small)
        os.truncate(f"{folder}/torn/outliers.h5", 3000)
        run(f"{folder}/uneven", seed=7, **small)
        with h5py.File(f"{folder}/uneven/outliers.h5", "r+") as f:
            del f["activations/inf_norm_mean"]
            f["activations/inf_norm_mean"] = np.zeros((3, 4), "f4")
