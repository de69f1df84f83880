"""Reads outliers.h5 as a user would: h5py sees a labelled scale on every axis, xarray named dimensions and coordinates.

usage: report_h5py.py FILE ROWS     exit status: 0 fine, 1 not, 77 h5py or xarray (with netCDF4) is not installed
"""
import sys

try:
    import h5py
    import netCDF4  # noqa: F401  xarray reads HDF5 through it
    import xarray
except ImportError:
    sys.exit(77)

AXES = {"step", "tap", "layer", "head"}


def check_axes(name, item):
    if not isinstance(item, h5py.Dataset):
        return
    group = item.parent
    for axis, dim in enumerate(item.dims):
        assert dim.label in AXES, f"{name}: axis {axis} is labelled {dim.label!r}"
        scale = group[dim.label]
        assert h5py.h5ds.is_scale(scale.id), f"{name}: {scale.name} is no scale"
        if item.name != scale.name:
            assert dim[0].name == scale.name, f"{name}: axis {axis} has no scale {scale.name}"
        assert scale.shape[0] == item.shape[axis], f"{name}: {item.shape} against {scale.name} {scale.shape}"


path, rows = sys.argv[1], int(sys.argv[2])
with h5py.File(path, "r") as f:
    for key in ("format", "created_by", "config"):
        assert isinstance(f.attrs[key], str), f"attribute {key} is {type(f.attrs[key])}"
    assert f.attrs["format"] == "ohtrain-outliers"
    f.visititems(check_axes)
    taps = [t.decode() for t in f["activations/tap"][:]]
    groups = [g for g in ("activations", "attention", "train") if g in f] + [f"eval/{n}" for n in f.get("eval", {})]

for group in groups:
    with xarray.open_dataset(path, group=group) as d:
        for name, v in d.variables.items():
            assert set(v.dims) <= AXES, f"{group}/{name}: {v.dims}"
        for name in d.data_vars:
            assert d[name].attrs.get("long_name"), f"{group}/{name} has no long_name"
            for dim in d[name].dims:
                assert dim in d.coords, f"{group}/{name}: {dim} is no coordinate"
with xarray.open_dataset(path, group="activations") as d:
    assert d["kurtosis"].dims == ("step", "tap") and d.sizes["step"] == rows
    assert list(d["tap"].values) == taps
    for tap in taps:
        assert d["inf_norm_max"].sel(tap=tap).shape == (rows,)
        if rows:
            assert float(d["inf_norm_max"].sel(tap=tap, step=int(d["step"][0]))) > 0
