"""Checkpoints written by Orbax, on two devices, give the arrays of the tree in memory bit for bit."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ww_callbacks.weights import find_layers

pytest.importorskip("tensorstore")
pytest.importorskip("orbax.checkpoint")
pytest.importorskip("optax")

WRITE = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

folder = sys.argv[1]
mesh = Mesh(np.array(jax.devices()), ("x",))
assert mesh.size == 2

def sharded(array, *axes):
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))

def network(seed):
    rng = np.random.default_rng(seed)
    return {
        "Dense_0": {
            "kernel": sharded(rng.standard_normal((8, 6)).astype("f4"), "x"),
            "bias": sharded(np.zeros(6, "f4")),
        },
        "Dense_1": {"kernel": sharded(rng.standard_normal((6, 4)).astype("f2"), None, "x")},
        "Embed_0": {"embedding": sharded(jnp.asarray(rng.standard_normal((10, 4)), jnp.bfloat16), "x")},
    }

params = network(0)
state = {"params": params, "opt_state": optax.adam(1e-3).init(params), "step": 3, "name": "run", "none": None}
for database in (True, False):
    for zarr3 in (True, False):
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=database, use_zarr3=zarr3)
        ocp.Checkpointer(handler).save(f"{folder}/state-{database}-{zarr3}", state)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(f"{folder}/params", params)
    checkpointer.save(f"{folder}/ema", {"params": params, "ema_params": network(1), "step": 3})
    checkpointer.save(f"{folder}/nnx", nnx.state(nnx.Linear(8, 6, rngs=nnx.Rngs(0))))
with ocp.CheckpointManager(f"{folder}/run") as manager:
    manager.save(7, args=ocp.args.StandardSave(params))
with ocp.CheckpointManager(f"{folder}/items", item_names=("params", "opt_state", "config")) as manager:
    items = {"params": ocp.args.StandardSave(params), "opt_state": ocp.args.StandardSave({"trace": params})}
    manager.save(7, args=ocp.args.Composite(**items, config=ocp.args.JsonSave({"a": 1})))
for name, tree in {"params": params, "ema": network(1)}.items():
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    arrays = {".".join(key.key for key in keys): np.asarray(leaf) for keys, leaf in leaves}
    words = {key: value.view("u2") if value.dtype.name == "bfloat16" else value for key, value in arrays.items()}
    np.savez(f"{folder}/{name}.npz", **words)
"""
LAYERS = {"Dense_0": "Dense_0.kernel", "Dense_1": "Dense_1.kernel", "Embed_0.embedding": "Embed_0.embedding"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", WRITE, str(folder)], env=environment, timeout=110, check=True)
    return folder


def check(path, expected, prefix=""):
    layers = {layer.name: layer for layer in find_layers(path)}
    for name, key in LAYERS.items():
        layer, values = layers[prefix + name], expected[key]
        assert layer.reason == ""
        assert layer.read().dtype == values.dtype
        assert layer.read().tobytes() == values.tobytes()
        rows = layer.read.narrow(0, 1, 5)()
        assert rows.tobytes() == values[1:6].tobytes()
    return layers


@pytest.mark.parametrize("database", [True, False], ids=["database", "folders"])
@pytest.mark.parametrize("zarr3", [True, False], ids=["zarr 3", "zarr 2"])
def test_a_train_state_is_its_parameters(folder, database, zarr3):
    path = folder / f"state-{database}-{zarr3}"
    assert (path / "manifest.ocdbt").exists() == database
    layers = check(path, np.load(folder / "params.npz"))
    assert layers.keys() == LAYERS.keys()
    assert layers["Embed_0.embedding"].spec.dtype == "bfloat16"


@pytest.mark.parametrize("place", ["params", "run", "run/7", "run/7/default", "items", "items/7", "items/7/params"])
def test_parameters_of_a_tree_a_step_or_an_item(folder, place):
    assert check(folder / place, np.load(folder / "params.npz")).keys() == LAYERS.keys()


def test_several_networks_have_the_names_of_their_keys(folder):
    assert len(check(folder / "ema", np.load(folder / "params.npz"), "params.")) == 6
    check(folder / "ema", np.load(folder / "ema.npz"), "ema_params.")


def test_a_module_of_nnx(folder):
    found = {layer.name: layer.reason or layer.spec.matrix_shape for layer in find_layers(folder / "nnx")}
    assert found == {"kernel": (1, 6, 8), "bias": "no matrix: fewer than two dimensions"}
