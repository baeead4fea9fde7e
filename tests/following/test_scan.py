import os
import subprocess
import sys

import pytest

from ww_callbacks.following.content import step_inside
from ww_callbacks.following.holding import FOLDER, Holding
from ww_callbacks.following.owners import owner_name
from ww_callbacks.following.scan import scan, step_of, still_holds, version_of

torch = pytest.importorskip("torch")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_the_checkpoints_of_every_library_are_found_with_their_steps(tmp_path):
    touch(
        tmp_path,
        "lightning_logs/version_3/checkpoints/epoch=1-step=40.ckpt",
        "hf/checkpoint-500/model.safetensors",
        "hf/checkpoint-500/optimizer.pt",
        "hf/checkpoint-1000/model-00001-of-00002.safetensors",
        "hf/checkpoint-1000/model-00002-of-00002.safetensors",
        "keras/05-0.31.weights.h5",
        "titan/step-200/.metadata",
        "titan/step-200/__0_0.distcp",
        "orbax/300/_CHECKPOINT_METADATA",
        "orbax/300/default/manifest.ocdbt",
        "deepspeed/global_step7/mp_rank_00_model_states.pt",
        "deepspeed/global_step7/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    )
    assert {name: step_of(name) for name in scan(tmp_path)} == {
        "lightning_logs/version_3/checkpoints/epoch=1-step=40.ckpt": 40,
        "hf/checkpoint-500": 500,
        "hf/checkpoint-1000": 1000,
        "keras/05-0.31.weights.h5": 5,
        "titan/step-200": 200,
        "orbax/300": 300,
        "deepspeed/global_step7": 7,
    }


def test_a_folder_of_a_step_with_parts_of_a_model_is_one_checkpoint(tmp_path):
    touch(tmp_path, "run/step-1/stage0.pt", "run/step-1/stage1.pt", "ckpt-2/step-10.pt", "ckpt-2/step-20.pt")
    assert {name: step_of(name) for name in scan(tmp_path)} == {
        "run/step-1": 1,
        "ckpt-2/step-10.pt": 10,
        "ckpt-2/step-20.pt": 20,
    }
    assert scan(tmp_path, ["*/stage1.pt"]) == ["run/step-1/stage1.pt"]


def test_a_folder_in_which_each_rank_has_a_part_of_the_matrices_is_one_checkpoint(tmp_path):
    touch(
        tmp_path,
        "zero/last.ckpt/checkpoint/zero_pp_rank_0_mp_rank_00_model_states.pt",
        "zero/last.ckpt/checkpoint/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "megatron/iter_0000010/mp_rank_00/model_optim_rng.pt",
        "megatron/iter_0000010/mp_rank_01/model_optim_rng.pt",
        "alone/iter_0000010/mp_rank_00/model_optim_rng.pt",
    )
    assert scan(tmp_path) == [
        "alone/iter_0000010/mp_rank_00/model_optim_rng.pt",
        "megatron/iter_0000010",
        "zero/last.ckpt/checkpoint",
    ]


def test_what_is_no_checkpoint_is_left_out(tmp_path):
    touch(
        tmp_path,
        "tmp-checkpoint-500/model.safetensors",
        "400.orbax-checkpoint-tmp-17/_METADATA",
        ".step-5.pt.part",
        "step-6.pt.tmp",
        "checkpoint-5/rng_state.pth",
        "optimizer.pt",
        "training_args.bin",
        "events.out.tfevents.1.host",
        "config.json",
        "results/step-1.pt",
    )
    os.symlink(tmp_path / "results" / "step-1.pt", tmp_path / "last.pt")
    os.symlink(tmp_path, tmp_path / "loop")
    os.mkfifo(tmp_path / "step-9.pt")
    assert scan(tmp_path, leave_out=tmp_path / "results") == []
    assert scan(tmp_path) == ["results/step-1.pt"]


def test_patterns_select_by_name_or_by_path(tmp_path):
    touch(tmp_path, "a/step-1.pt", "a/best-1.pt", "b/step-1.pt")
    assert scan(tmp_path, ["step-*"]) == ["a/step-1.pt", "b/step-1.pt"]
    assert scan(tmp_path, ["a/*", "!best*"]) == ["a/step-1.pt"]


def test_a_version_changes_with_its_files(tmp_path):
    touch(tmp_path, "checkpoint-5/model.safetensors")
    folder = tmp_path / "checkpoint-5"
    before = version_of(folder)
    touch(folder, "trainer_state.json")
    assert still_holds(before, version_of(folder))
    assert version_of(folder) != before
    (folder / "model.safetensors").write_bytes(b"longer")
    assert not still_holds(before, version_of(folder))


@pytest.mark.parametrize("key", ["global_step", "step", "iter_num", "epoch"])
def test_the_step_inside_a_checkpoint_is_read_without_unpickling(tmp_path, key):
    torch.save({"model": {"fc.weight": torch.ones(3, 3)}, "optimizer": object, key: 70}, tmp_path / "last.ckpt")
    assert step_inside(tmp_path / "last.ckpt") == 70


def test_a_trainer_state_states_the_step_of_its_folder(tmp_path):
    (tmp_path / "trainer_state.json").write_text('{"global_step": 30, "epoch": 1.5}')
    assert step_inside(tmp_path) == 30
    (tmp_path / "trainer_state.json").write_text('{"global_step": "thirty"')
    assert step_inside(tmp_path) is None


def test_a_kept_checkpoint_outlives_its_deletion_and_its_replacement(tmp_path):
    touch(tmp_path, "step-1.pt", "checkpoint-2/model.safetensors")
    holding = Holding(tmp_path)
    file, folder = holding.keep(tmp_path / "step-1.pt"), holding.keep(tmp_path / "checkpoint-2")
    assert holding.keep(tmp_path / "step-1.pt") == file
    (tmp_path / "new").write_bytes(b"new")
    os.replace(tmp_path / "new", tmp_path / "step-1.pt")
    (tmp_path / "checkpoint-2" / "model.safetensors").unlink()
    (tmp_path / "checkpoint-2").rmdir()
    assert file.read_bytes() == b"x"
    assert (folder / "model.safetensors").read_bytes() == b"x"
    assert sorted(name for name, _ in holding.kept()) == ["checkpoint-2", "step-1.pt"]
    assert holding.keep(tmp_path / "step-1.pt").read_bytes() == b"new"
    for _, copy in holding.kept():
        holding.drop(copy)
    assert not (tmp_path / FOLDER).exists()


def test_only_so_many_checkpoints_are_kept(tmp_path):
    touch(tmp_path, "step-1.pt", "step-2.pt")
    holding = Holding(tmp_path, most=1)
    assert holding.keep(tmp_path / "step-1.pt") is not None
    assert holding.keep(tmp_path / "step-2.pt") is None
    assert Holding(tmp_path, most=0).keep(tmp_path / "step-2.pt") is None


def test_links_that_a_killed_follower_left_are_deleted(tmp_path):
    code = "from ww_callbacks.following.owners import owner_name; print(owner_name())"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    touch(tmp_path, f"{FOLDER}/.{dead.stdout.strip()}.1f/step-1.pt", f"{FOLDER}/.{owner_name()}.2f/step-2.pt")
    holding = Holding(tmp_path)
    assert holding.kept() == []
    assert os.listdir(tmp_path / FOLDER) == [f".{owner_name()}.2f"]


def test_a_checkpoint_that_another_follower_keeps_is_kept_once(tmp_path):
    touch(tmp_path, "step-1.pt")
    first, second = Holding(tmp_path), Holding(tmp_path)
    copy = first.keep(tmp_path / "step-1.pt")
    second._add(tmp_path / "step-1.pt", copy.parent)  # it had looked before the first one made the copy
    assert [path for _, path in second.kept()] == [copy]
    assert os.listdir(tmp_path / FOLDER) == [copy.parent.name]
