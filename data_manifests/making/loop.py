"""What the programs that pre-train the demo encoders share: the loop, and writing the folder."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from serlib import records


def train(
    model: torch.nn.Module,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    config,
    name: str,
    save: Callable[[int, float, float, dict[str, float]], None],
    *,
    save_every: int = 500,
) -> None:
    """Train ``model`` for ``config.steps`` steps; a killed run goes on from its last saved step.

    Args:
        model: Everything that is trained.
        loss: Step (from 0) to the loss and what to show of it; the same batch whenever asked.
        config: A dataclass with steps, lr, warmup, bf16 and whatever else decides the result.
        name: Of the bar, and of the state under the cache folder.
        save: Called with steps done, seconds, loss and what was shown, at every saved step.
        save_every: Steps between two states.
    """
    optimizer, scheduler = _optimizer(model, config)
    state = records.home() / "demo" / f"pretrain-{records.digest(asdict(config))}.pt"
    step, seconds = 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        step, seconds = saved["step"], saved["seconds"]
    began = time.perf_counter() - seconds
    with tqdm(total=config.steps, initial=step, desc=name, mininterval=20) as bar:
        while step < config.steps:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
                total, shown = loss(step)
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            step += 1
            bar.update()
            if step % 50 == 0:
                bar.set_postfix(
                    loss=f"{total.item():.3f}", **{k: f"{v:.2f}" for k, v in shown.items()}
                )
            if step % save_every == 0 or step == config.steps:
                seconds = time.perf_counter() - began
                saved = dict(
                    model=model.state_dict(), optimizer=optimizer.state_dict(), step=step,
                    scheduler=scheduler.state_dict(), seconds=seconds,
                )  # fmt: skip
                state.parent.mkdir(parents=True, exist_ok=True)
                torch.save(saved, state.with_suffix(".partial"))
                state.with_suffix(".partial").replace(state)
                save(step, seconds, total.item(), shown)


def write(model, beside, out: Path, config, step: int, seconds: float, **facts) -> None:
    """Write a Hugging Face folder: weights in float16, and `pretraining.json` for the card.

    Args:
        model: A transformers model; a copy is saved, so that training can go on.
        beside: Its feature extractor or tokenizer.
        out: The folder.
        config: How it is made.
        step: Steps done.
        seconds: They took so long.
        **facts: More for the card.
    """
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(out)
    beside.save_pretrained(out)
    facts = dict(
        config=asdict(config), steps_done=step, minutes=round(seconds / 60, 1), **facts,
        threads=torch.get_num_threads(), machine=platform.machine(),
        torch=torch.__version__, transformers=metadata.version("transformers"),
    )  # fmt: skip
    (out / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n")


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Three decimals."""
    return {name: round(value, 3) for name, value in values.items()}


def _optimizer(model: torch.nn.Module, config):
    """AdamW, and a learning rate that rises over `warmup` and falls to zero in a straight line."""
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
        lr=config.lr,
        betas=(0.9, 0.98),
    )
    warm = config.warmup * config.steps
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warm, max(0.0, (config.steps - s) / (config.steps - warm))),
    )
    return optimizer, scheduler
