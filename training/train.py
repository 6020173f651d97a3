"""Train the codec: ``python -m training.train --data FOLDER --out RUN --minutes 90 [--set model.analysis_blocks=4 …]``.

Stops by wall clock (or ``--steps``), writes a checkpoint every few minutes, and resumes from ``RUN/checkpoint.pt`` or
from ``--resume``. The learning rate follows the share of the wall clock that is used up.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from .config import ModelConfig, TrainConfig
from .data import CropSampler, read_folder, split_validation, to_signal
from .losses import rate_distortion_loss
from .model import SemicodecModel

VALIDATION_RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
FIELDS = ["step", "minutes", "lr", "loss", "bpp", "psnr", "msssim", "gradient_norm"] + [
    f"{what}_{rate}" for rate in VALIDATION_RATES for what in ("val_bpp", "val_psnr", "val_msssim")
]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--sets", default="", help="comma-separated sets of index.csv; all by default")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run: checkpoint, logs")
    parser.add_argument("--resume", type=Path, help="start from this checkpoint instead of RUN/checkpoint.pt")
    parser.add_argument("--minutes", type=float, default=60, help="wall clock of the whole run, resumed parts counted in")
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many steps at the latest")
    parser.add_argument("--set", action="append", default=[], metavar="model.NAME=VALUE | train.NAME=VALUE")
    parser.add_argument("--restart-clock", action="store_true", help="with --resume: take the weights, count from zero")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to PyTorch")
    parser.add_argument("--limit", type=int, default=0, help="read only so many pictures")
    return parser.parse_args(arguments)


def configure(
    settings: list[str], model: dict[str, Any] | None = None, train: dict[str, Any] | None = None
) -> tuple[ModelConfig, TrainConfig]:
    """Apply ``model.NAME=VALUE`` and ``train.NAME=VALUE`` to the defaults, or to what a checkpoint holds.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    values: dict[str, dict[str, Any]] = {"model": dict(model or {}), "train": dict(train or {})}
    for setting in settings:
        key, _, text = setting.partition("=")
        group, _, name = key.partition(".")
        known = {f.name for f in dataclasses.fields(ModelConfig if group == "model" else TrainConfig)}
        if group not in values or name not in known:
            raise ValueError(f"unknown setting {key!r}; {group or 'model'} has {', '.join(sorted(known))}")
        values[group][name] = json.loads(text)
    return ModelConfig(**values["model"]), TrainConfig(**values["train"])


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write to the side and rename: a kill leaves the old checkpoint whole."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    warm_up = min(1.0, (step + 1) / 200)
    return config.lr * warm_up * min(1.0, max(0.0, (1 - progress) / (1 - config.lr_hold)))


@torch.no_grad()
def validate(model: SemicodecModel, pictures: list[Any], config: TrainConfig, device: torch.device) -> dict[str, float]:
    result: dict[str, float] = {}
    for rate in VALIDATION_RATES:
        rows = []
        for picture in pictures:
            x = to_signal(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(device))
            q = torch.tensor([rate], device=device)
            rd = rate_distortion_loss(model(x, q, hard_rate=True), x, model.rate_bank.rd_lambda(q), config)
            rows.append((rd.bpp.item(), -10 * torch.log10(rd.mse).item(), rd.msssim.item()))
        for name, values in zip(("val_bpp", "val_psnr", "val_msssim"), zip(*rows, strict=True), strict=True):
            result[f"{name}_{rate}"] = sum(values) / len(values)
    return result


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)

    # ---- state: fresh or from a checkpoint ----
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint_path = args.out / "checkpoint.pt"
    source = args.resume or (checkpoint_path if checkpoint_path.exists() else None)
    state: dict[str, Any] | None = None
    if source:
        state = torch.load(source, map_location="cpu", weights_only=True)
    # Settings given now go over the checkpoint's: a model may grow by parts that start silent.
    before = (state["model_config"], json.loads(state["train_config"])) if state else (None, None)
    model_config, config = configure(args.set, *before)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # ---- data ----
    pictures = read_folder(args.data, tuple(s for s in args.sets.split(",") if s))
    training, validation = split_validation(pictures[: args.limit] if args.limit else pictures)
    seed = config.seed + (state["step"] if state else 0)
    sampler = CropSampler(training, config.crop, config.batch, config.grey_share, config.synthetic_share, seed)

    # ---- model, optimiser, moving average ----
    model = SemicodecModel(model_config)
    if not state:
        model.initialise(to_signal(torch.cat([sampler.next() for _ in range(64 // config.batch + 1)])))
    ema_model = SemicodecModel(model_config).requires_grad_(False)
    ema_model.load_state_dict(model.state_dict())
    step, elapsed_before = 0, 0.0
    if state:
        for target, key in ((model, "model"), (ema_model, "ema")):
            fresh = target.load_state_dict({k: v.float() for k, v in state[key].items()}, strict=False)
            if fresh.unexpected_keys:
                raise ValueError(
                    f"{source}: the checkpoint holds {fresh.unexpected_keys}, which this shape has no place for"
                )
        if fresh.missing_keys:
            print(f"new parameters, not in {source}: {', '.join(fresh.missing_keys)}")
            if not args.restart_clock:
                raise ValueError(f"{source} lacks parameters of this shape; --restart-clock lets it grow")
            ema_model.load_state_dict({k: model.state_dict()[k] for k in fresh.missing_keys}, strict=False)
        if not args.restart_clock:
            step, elapsed_before = state["step"], state["seconds"]
    model, ema_model = (m.to(device, memory_format=torch.channels_last) for m in (model, ema_model))
    optimiser = torch.optim.AdamW(model.parameters(), config.lr, config.betas, weight_decay=config.weight_decay)
    if state and "optimiser" in state and not args.restart_clock:
        optimiser.load_state_dict(state["optimiser"])
    forward: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]

    def checkpoint() -> None:
        save_checkpoint(
            checkpoint_path,
            {
                "model": model.state_dict(),
                "ema": ema_model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "seconds": elapsed,
                "model_config": dataclasses.asdict(model_config),
                "train_config": json.dumps(dataclasses.asdict(config)),
            },
        )

    # ---- logs ----
    log_path = args.out / "log.csv"
    new_log = not log_path.exists()
    log_file = log_path.open("a", newline="")
    log = csv.DictWriter(log_file, FIELDS)
    if new_log:
        log.writeheader()
    try:
        from torch.utils.tensorboard import SummaryWriter

        board: Any = SummaryWriter(args.out / "tensorboard")
    except ImportError:
        board = None
    print(json.dumps({"model": dataclasses.asdict(model_config), "train": dataclasses.asdict(config)}))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(training)} pictures, {device}")

    # ---- the run ----
    start = time.monotonic()
    elapsed = elapsed_before
    last_log, last_checkpoint = elapsed, elapsed
    sums = torch.zeros(5, device=device)
    count = 0
    progress_bar = tqdm(initial=step, unit="step", mininterval=10)
    generator = torch.Generator().manual_seed(seed)
    while elapsed < args.minutes * 60 and step < args.steps:
        progress = max(elapsed / (args.minutes * 60), step / args.steps)
        lr = learning_rate(config, step, progress)
        for group in optimiser.param_groups:
            group["lr"] = lr
        x = to_signal(sampler.next().to(device, non_blocking=True))
        rate = torch.rand(len(x), generator=generator).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            output = forward(x, rate)
        rd = rate_distortion_loss(output, x, model.rate_bank.rd_lambda(rate), config)
        optimiser.zero_grad(set_to_none=True)
        rd.loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        if torch.isfinite(norm):  # one broken batch must not end the run
            optimiser.step()
            model.clamp_integer_weights()
            with torch.no_grad():
                decay = min(config.ema_decay, (step + 1) / (step + 10))
                torch._foreach_lerp_(list(ema_model.parameters()), list(model.parameters()), 1 - decay)
            psnr = -10 * torch.log10(rd.mse).mean()
            sums += torch.stack([rd.loss.detach(), rd.bpp.mean().detach(), psnr.detach(), rd.msssim.mean().detach(), norm])
            count += 1
        step += 1
        progress_bar.update()
        elapsed = elapsed_before + time.monotonic() - start
        if elapsed - last_log > 60 and count:
            row = dict(zip(FIELDS, [step, elapsed / 60, lr, *(sums / count).tolist()], strict=False))
            sums.zero_()
            count = 0
            last_log = elapsed
            if elapsed - last_checkpoint > 240:
                last_checkpoint = elapsed
                checkpoint()
                row.update(validate(ema_model, validation, config, device))
            log.writerow(row)
            log_file.flush()
            progress_bar.set_postfix_str(f"loss {row['loss']:.4f} bpp {row['bpp']:.3f} psnr {row['psnr']:.2f}")
            if board:
                for name, value in row.items():
                    board.add_scalar(name, value, step)
    checkpoint()
    final = {"step": step, "minutes": elapsed / 60, **validate(ema_model, validation, config, device)}
    log.writerow(final)
    log_file.close()
    progress_bar.close()
    print(json.dumps(final))


if __name__ == "__main__":
    main()
