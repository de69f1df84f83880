#!/usr/bin/env python3
"""Draws what a run's outliers.h5 holds: loss and infinity norm over steps, kurtosis over layer and tensor.

usage: plot_outliers.py RUNDIR/outliers.h5 [-o FILE.png] [--tensor ffn.out]
Needs h5py and matplotlib. The same numbers as `ohtrain report RUNDIR --format html`.
"""
import argparse
import sys

import h5py
import numpy as np
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def layer_and_part(tap):
    """'layer.3.ffn.out' -> (3, 'ffn.out'); others -> (None, tap)."""
    words = tap.split(".")
    if words[0] == "layer" and len(words) > 2 and words[1].isdigit():
        return int(words[1]), ".".join(words[2:])
    return None, tap


def last_evaluation(f):
    groups = sorted(f.get("eval", {}), key=int)
    if not groups:
        sys.exit(f"{f.filename}: no evaluation yet")
    return f["eval"][groups[-1]]


def layer_map(evaluation, name):
    """(layers, parts) array of a statistic, and the names of the parts."""
    taps = [layer_and_part(t) for t in evaluation["tap"].asstr()[:]]
    parts = list(dict.fromkeys(part for layer, part in taps if layer is not None))
    layers = 1 + max((layer for layer, _ in taps if layer is not None), default=0)
    table = np.full((layers, len(parts)), np.nan)
    for (layer, part), value in zip(taps, evaluation[name][:]):
        if layer is not None:
            table[layer, parts.index(part)] = value
    return table, parts


def draw(path, tensor, out):
    figure, (loss, norm, heat) = plt.subplots(1, 3, figsize=(16, 4.5), constrained_layout=True)
    with h5py.File(path) as f:
        loss.plot(f["train/step"][:], f["train/loss"][:])
        loss.set(xlabel="optimizer step", ylabel="training loss, nats a token")
        a = f["activations"]
        for k, (layer, part) in enumerate(layer_and_part(t) for t in a["tap"].asstr()[:]):
            if layer is not None and part == tensor:
                norm.plot(a["step"][:], a["inf_norm_mean"][:, k], label=f"layer {layer}")
        norm.set(xlabel="optimizer step", ylabel=f"inf norm of {tensor}, mean over rows")
        if norm.lines:
            norm.legend(fontsize="small", ncols=2)
        table, parts = layer_map(last_evaluation(f), "kurtosis")
    image = heat.imshow(table, aspect="auto", cmap="YlGnBu")
    heat.set(xlabel="tensor", ylabel="layer", yticks=range(len(table)))
    heat.set_xticks(range(len(parts)), parts, rotation=45, ha="right")
    figure.colorbar(image, ax=heat, label="kurtosis, mean over rows (last evaluation)")
    figure.savefig(out, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("-o", "--out", default="outliers.png")
    parser.add_argument("--tensor", default="ffn.out", help="tensor of each layer whose infinity norm is drawn")
    options = parser.parse_args()
    draw(options.file, options.tensor, options.out)
