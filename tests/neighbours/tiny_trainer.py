"""A transformers.Trainer of a tiny model with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

STEPS = 12


def trainer_of(tmp_path: Path, *callbacks: Any, **arguments: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    tokens = torch.randint(0, 64, (8 * STEPS, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    defaults: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 8,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 4,
        "learning_rate": 1e-2,
    }
    settings = transformers.TrainingArguments(output_dir=str(tmp_path), **(defaults | arguments))
    model = transformers.LlamaForCausalLM(config)
    return transformers.Trainer(model, settings, train_dataset=rows, eval_dataset=rows[:8], callbacks=list(callbacks))


class Trap(transformers.TrainerCallback):
    """One very large weight in one layer after step 10."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 10:
            with torch.no_grad():
                model.model.layers[0].mlp.up_proj.weight[3, 4] = 5.0
