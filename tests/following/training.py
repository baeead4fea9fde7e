"""A small training with a checkpoint after every step, which resumes from the last whole one: FOLDER STEPS PAUSE."""

import sys
import time
from pathlib import Path

import torch
from torch import nn


def make():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(90, 60), nn.ReLU(), nn.Linear(60, 55))
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train(model, optimizer, step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(32, 90, generator=generator)
    loss = (model(inputs) - inputs[:, :55]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main(folder, steps, pause):
    model, optimizer = make()
    folder.mkdir(exist_ok=True)
    done = 0
    for path in sorted(folder.glob("step-*.pt"), key=lambda path: int(path.stem[5:]), reverse=True):
        try:
            state = torch.load(path)
        except Exception:  # it was truncated when this program was killed
            continue
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
        break
    for step in range(done + 1, steps + 1):
        train(model, optimizer, step)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, folder / f"step-{step}.pt")
        time.sleep(pause)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
