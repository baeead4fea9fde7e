import subprocess
import sys
from importlib import resources

import pytest

import ww_callbacks as ww
from ww_callbacks.worker.environment import worker_environment

FRAMEWORKS = (
    "torch", "lightning", "pytorch_lightning", "keras", "tensorflow", "jax", "tensorboard", "pandas", "matplotlib"
)  # fmt: skip

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""

pytestmark = pytest.mark.timeout(60)


def output(script, *flags, **arguments):
    done = subprocess.run(
        [sys.executable, *flags, "-c", script], capture_output=True, text=True, timeout=50, check=False, **arguments
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_framework_nor_anything_heavy():
    loaded = output("import ww_callbacks, sys; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not {*FRAMEWORKS, "numpy", "scipy"} & set(loaded)
    assert "ww_callbacks" in loaded


def test_monitor_analyze_and_all_other_names_load_no_framework():
    script = "import ww_callbacks as ww, sys; [getattr(ww, name) for name in ww.__all__]; print(*sys.modules)"
    assert not set(FRAMEWORKS) & {name.split(".")[0] for name in output(script).split()}


def test_analysing_arrays_loads_no_framework():
    script = """
import sys, numpy as np, ww_callbacks as ww
report = ww.analyze({"fc": np.random.default_rng(0).standard_normal((80, 60))})
str(report), report.summary()
print(*sys.modules)
"""
    assert not set(FRAMEWORKS) & {name.split(".")[0] for name in output(script).split()}


def test_the_code_of_the_worker_loads_numpy_scipy_and_the_standard_library_only():
    script = """
import sys
before = set(sys.modules)
import ww_callbacks.worker.__main__, ww_callbacks.worker.serve
import numpy as np
from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
spec = LayerSpec("fc", "Linear", (80, 60), "float32", ((), (0,), (1,)))
assert analyze_layer(spec, np.random.default_rng(0).standard_normal((80, 60)).astype("f4"), Settings()).alpha
print(*{name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
"""
    environment = worker_environment({"PATH": "/usr/bin:/bin"})
    loaded = {name for name in output(script, env=environment).split() if not name.startswith("_")}
    # numpy.f2py takes charset_normalizer along where it is installed
    assert loaded <= {"numpy", "scipy", "ww_callbacks", "cython_runtime", "charset_normalizer"}
    assert {"numpy", "scipy", "ww_callbacks"} <= loaded


def test_every_public_name_is_there_and_an_unknown_one_is_an_attribute_error():
    assert sorted(dir(ww)) == sorted(ww.__all__)
    for name in ww.__all__:
        assert getattr(ww, name) is not None
    assert ww.Monitor.__module__ == "ww_callbacks.monitor.monitor"
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        _ = ww.analyse


def test_the_package_carries_its_types_and_its_version():
    assert resources.files("ww_callbacks").joinpath("py.typed").is_file()
    assert ww.__version__.split(".")[0].isdigit()


def test_without_lightning_the_error_names_the_extra():
    pytest.importorskip("torch")
    script = (
        BLOCK.format(blocked=("lightning", "pytorch_lightning", "lightning_fabric"))
        + """
try:
    import ww_callbacks.lightning
except ImportError as error:
    print(error)
"""
    )
    assert "pip install ww_callbacks[lightning]" in output(script)


def test_without_torch_and_lightning_the_error_names_the_extra_too():
    script = (
        BLOCK.format(blocked=("lightning", "pytorch_lightning", "lightning_fabric", "torch"))
        + """
try:
    import ww_callbacks.lightning
except ImportError as error:
    print(error)
"""
    )
    assert "pip install ww_callbacks[lightning]" in output(script)


def test_without_pandas_the_error_names_the_extra_and_all_else_works():
    script = (
        BLOCK.format(blocked=("pandas",))
        + """
import numpy as np, ww_callbacks as ww
report = ww.analyze({"fc": np.random.default_rng(0).standard_normal((80, 60))})
print(report.summary()["alpha"] > 1)
try:
    report.to_pandas()
except ImportError as error:
    print(error)
"""
    )
    printed = output(script)
    assert printed.startswith("True")
    assert "pip install ww_callbacks[pandas]" in printed


def test_without_torch_arrays_can_be_analysed_and_monitored():
    script = (
        BLOCK.format(blocked=FRAMEWORKS)
        + """
import numpy as np, ww_callbacks as ww
weights = {"fc": np.random.default_rng(0).standard_normal((80, 60))}
with ww.Monitor(weights, every_n_steps=1, deterministic=True) as monitor:
    monitor.step(1)
print(monitor.history.steps, [report["fc"].status for report in monitor.history])
"""
    )
    assert output(script).strip() == "[0, 1] ['ok', 'ok']"


def test_without_a_framework_npz_and_safetensors_files_can_be_analysed(tmp_path):
    script = (
        BLOCK.format(blocked=(*FRAMEWORKS, "safetensors", "h5py"))
        + """
import json, numpy as np, ww_callbacks as ww
weights = np.random.default_rng(0).standard_normal((80, 60)).astype("<f4")
np.savez("model.npz", **{"fc.weight": weights})
entry = {"dtype": "F32", "shape": weights.shape, "data_offsets": [0, weights.nbytes]}
header = json.dumps({"fc.weight": entry}).encode()
with open("model.safetensors", "wb") as file:
    file.write(len(header).to_bytes(8, "little") + header + weights.tobytes())
expected = ww.analyze({"fc": weights})["fc"]
for name in ("model.npz", "model.safetensors"):
    (layer,) = ww.analyze(name)
    print(name, layer.status, layer.alpha == expected.alpha, (layer.N, layer.M) == (80, 60))
print(*{name.split(".")[0] for name in sys.modules})
"""
    )
    npz, safetensors, loaded = output(script, cwd=tmp_path, env=worker_environment({})).splitlines()
    assert npz == "model.npz ok True True"
    assert safetensors == "model.safetensors ok True True"
    assert not {*FRAMEWORKS, "safetensors", "h5py"} & set(loaded.split())


def test_without_tensorboard_a_monitor_with_log_dir_says_at_once_which_extra(tmp_path):
    script = (
        BLOCK.format(blocked=("tensorboard",))
        + """
import numpy as np, ww_callbacks as ww
try:
    ww.Monitor({"fc": np.ones((80, 60))}, log_dir="runs")
except ImportError as error:
    print(error)
"""
    )
    assert "pip install ww_callbacks[tensorboard]" in output(script, cwd=tmp_path, env=worker_environment({}))
