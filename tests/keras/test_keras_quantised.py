"""Quantised layers of Keras: what the layers themselves compute, and the same from files."""

import keras
import numpy as np
import pytest
from keras import layers, quantizers

from ww_callbacks.weights import find_layers

FORMS = ["int8", "int4", "int4 in blocks"]
has_blocks = hasattr(quantizers, "Int4QuantizationConfig")


def quantise(layer, form):
    if form != "int4 in blocks":
        whole = form == "int4" and has_blocks  # the default of a model has blocks of 128
        layer.quantize(form, config=quantizers.Int4QuantizationConfig(block_size=None) if whole else None)
        return
    if not has_blocks:
        pytest.skip("this version of Keras has no blocks")
    layer.quantize("int4", config=quantizers.Int4QuantizationConfig(block_size=4))


def built(layer, *shape):
    keras.utils.set_random_seed(0)
    layer.build(shape)
    return layer


def used(layer, inputs):
    """The matrix (inputs, outputs) of a linear layer: what it makes of each unit vector."""
    side = int(np.prod(inputs))
    unit = np.eye(side, dtype="float32").reshape(
        side, *((1,) * ((layer.input_spec.ndim or 2) - 1 - len(inputs))), *inputs
    )
    return keras.ops.convert_to_numpy(layer(unit)).reshape(side, -1)


def only(model):
    (layer,) = find_layers(model)
    assert layer.reason == ""
    return layer


def check(found, expected):
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def add_lora(layer, name):
    layer.enable_lora(2)
    up = getattr(layer, f"lora_{name}_b")
    up.assign(0.1 * np.random.default_rng(0).standard_normal(up.shape))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lora", [False, True], ids=["alone", "with LoRA"])
@pytest.mark.parametrize("units", [6, 7])
def test_dense(form, lora, units):
    layer = built(layers.Dense(units, use_bias=False), None, 9)
    quantise(layer, form)
    if lora:
        add_lora(layer, "kernel")
    check(only(layer).read(), used(layer, (9,)))


EQUATIONS = {
    "projection": ("abc,cde->abde", (None, 3, 5), (None, 4, 9), (9,)),
    "output": ("abcd,cde->abe", (None, 7), (None, 4, 2, 5), (2, 5)),
    "swapped": ("abc,cde->abed", (None, 5, 3), (None, 4, 9), (9,)),
    "outputs first": ("ab,cb->ac", (6,), (None, 9), (9,)),
    "matrix": ("abc,cd->abd", (None, 6), (None, 4, 9), (9,)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_dense(form, equation):
    text, output, inputs, contracted = EQUATIONS[equation]
    layer = built(layers.EinsumDense(text, output_shape=output), *inputs)
    quantise(layer, form)
    found = only(layer)
    assert len(found.spec.shape) == len(text.split("->")[0].split(",")[1])
    outputs_last = np.moveaxis(found.read(), found.spec.axes.inputs, range(len(contracted)))
    if equation == "swapped":
        outputs_last = np.swapaxes(outputs_last, 1, 2)
    check(outputs_last, used(layer, contracted))


@pytest.mark.parametrize("form", FORMS)
def test_einsum_dense_with_lora(form):
    layer = built(layers.EinsumDense("abc,cde->abde", output_shape=(None, 3, 5)), None, 4, 9)
    quantise(layer, form)
    add_lora(layer, "kernel")
    check(only(layer).read(), used(layer, (9,)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lora", [False, True], ids=["alone", "with LoRA"])
@pytest.mark.parametrize("columns", [8, 9])
def test_embedding(form, lora, columns):
    layer = built(layers.Embedding(20, columns), None, 3)
    quantise(layer, form)
    if lora:
        add_lora(layer, "embeddings")
    check(only(layer).read(), keras.ops.convert_to_numpy(layer(np.arange(20))))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tied", [False, True], ids=["own", "tied"])
def test_reversible_embedding(form, tied):
    layer = built(layers.ReversibleEmbedding(20, 9, tie_weights=tied), None, 3)
    quantise(layer, form)
    found = {each.name: each for each in find_layers(layer)}
    table = found.pop(layer.name)
    check(table.read(), keras.ops.convert_to_numpy(layer(np.arange(20))))
    backwards = keras.ops.convert_to_numpy(layer(np.eye(9, dtype="float32"), reverse=True))
    if tied:
        assert found == {}
        check(table.read().T, backwards)
    else:
        assert list(found) == [f"{layer.name}.reverse_embeddings"]
        check(found[f"{layer.name}.reverse_embeddings"].read(), backwards)


def calibrated(layer, mode, bits, group):
    """A layer with random codes, as if they had been found with data."""
    if mode == "awq" and not hasattr(quantizers, "AWQConfig"):
        pytest.skip("this version of Keras has no AWQ")
    config = {"gptq": quantizers.GPTQConfig, "awq": getattr(quantizers, "AWQConfig", None)}[mode]
    layer.quantize(mode, config=config(None, None, weight_bits=bits, group_size=group))
    rng = np.random.default_rng(0)
    codes, scale, index = layer.quantized_kernel, layer.kernel_scale, layer.g_idx
    codes.assign(rng.integers(0, 256 if bits in (4, 8) else 2**bits, codes.shape).astype("uint8"))
    scale.assign(rng.uniform(0.5, 1, scale.shape))
    layer.kernel_zero.assign(rng.integers(0, 2**bits, scale.shape).astype("uint8"))
    index.assign(rng.permutation(np.arange(index.shape[0]) // group).astype("float32"))
    if mode == "awq":
        layer.awq_scales.assign(rng.uniform(0.5, 2, layer.awq_scales.shape))
    assert [each.kind for each in find_layers(layer)] == [type(layer).__name__]
    setattr(layer, f"is_{mode}_calibrated", True)
    del layer._kernel
    return layer


@pytest.mark.parametrize(("mode", "bits"), [("gptq", 4), ("gptq", 8), ("gptq", 2), ("awq", 4)])
def test_codes_that_were_calibrated(mode, bits):
    dense = calibrated(built(layers.Dense(7, use_bias=False), None, 12), mode, bits, 4)
    check(only(dense).read(), used(dense, (12,)))
    einsum = built(layers.EinsumDense("abc,cde->abde", output_shape=(None, 3, 5)), None, 4, 12)
    check(only(calibrated(einsum, mode, bits, 4)).read(), used(einsum, (12,)))


def network(cls=keras.Model):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((7,))
    x = layers.Embedding(40, 13, name="table")(inputs)
    x = layers.EinsumDense("abc,cde->abde", output_shape=(None, 3, 5), bias_axes="de", name="project")(x)
    x = layers.EinsumDense("abcd,cde->abe", output_shape=(None, 9), name="out")(x)
    x = layers.MultiHeadAttention(2, 5, name="attention")(x, x)
    return cls(inputs, layers.Dense(11, name="head")(x))


@pytest.mark.parametrize("form", [*FORMS, "float8"])
@pytest.mark.usefixtures("quick_trials")
def test_files_hold_the_weights_of_the_model(form, tmp_path):
    model = network()
    quantise(model, form)
    expected = {layer.name: layer for layer in find_layers(model)}
    model.save(tmp_path / "model.keras")
    found = {layer.name: layer for layer in find_layers(tmp_path / "model.keras")}
    assert found.keys() == expected.keys() | {"project.bias"}
    for name, layer in expected.items():
        if layer.spec is None or not has_blocks:
            assert (layer.spec is None) == (name.endswith("bias"))
            continue
        assert found[name].reason == ""
        np.testing.assert_array_equal(found[name].read().ravel(), layer.read().ravel())
        ours, theirs = (
            int(np.prod([each.shape[i] for i in each.axes.inputs])) for each in (found[name].spec, layer.spec)
        )
        assert ours == theirs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("quick_trials")
def test_weights_alone_are_read_or_skipped_as_a_whole(form, tmp_path):
    model = network()
    quantise(model, form)
    expected = {layer.name: layer for layer in find_layers(model)}
    model.save_weights(tmp_path / "model.weights.h5")
    found = {layer.name: layer for layer in find_layers(tmp_path / "model.weights.h5")}
    assert {name for name in found if not name.endswith("bias")} == {
        name for name in expected if not name.endswith("bias")
    }
    for name, layer in found.items():
        if layer.spec is not None:
            np.testing.assert_array_equal(layer.read().ravel(), expected[name].read().ravel())
    for name in ("project", "out"):  # nothing in the file tells their equations
        assert found[name].reason.startswith("quantised weights: stored as ")
    if has_blocks:
        assert found["attention.query"].reason == found["head"].reason == ""
    if form == "int4":  # an odd and an even number of columns are stored alike
        assert "does not tell whether the codes are int8 or int4" in found["table"].reason
    else:
        assert found["table"].reason == ""


@pytest.mark.parametrize("mode", ["gptq", "awq"])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.usefixtures("quick_trials")
def test_calibrated_codes_in_a_file(mode, use_bias, tmp_path):
    h5py = pytest.importorskip("h5py")
    inputs = keras.Input((12,))
    model = keras.Model(inputs, layers.Dense(7, name="dense", use_bias=use_bias)(inputs))
    layer = calibrated(model.get_layer("dense"), mode, 4, 4)
    order = [name for name in layer.variable_serialization_spec[mode] if use_bias or name != "bias"]
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        for number, name in enumerate(order):
            file[f"layers/dense/vars/{number}"] = keras.ops.convert_to_numpy(getattr(layer, name))
    np.testing.assert_array_equal(only(tmp_path / "model.weights.h5").read(), only(model).read())
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:  # as Keras 3.15 saves it
        group, zero = file["layers/dense/vars"], order.index("kernel_zero")
        del group[str(zero)]
        for number in range(zero + 1, len(order)):
            group.move(str(number), str(number - 1))
    (layer,) = find_layers(tmp_path / "model.weights.h5")
    assert layer.reason.endswith("g_idx; no kernel_zero")


@pytest.mark.usefixtures("quick_trials")
def test_parts_that_do_not_fit_are_one_skipped_layer(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        for number, array in enumerate([np.full((8, 6), -120, np.int8), np.ones(6, "f4"), np.ones(5, "f4")]):
            file[f"layers/dense/vars/{number}"] = array
    (layer,) = find_layers(tmp_path / "model.weights.h5")
    assert layer.name == "dense"
    assert layer.reason == (
        "quantised weights: stored as kernel, kernel_scale; codes of shape (8, 6) and scales of shape (5,) do not fit"
    )
