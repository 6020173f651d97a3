"""Train the codec: ``python -m training.train --data FOLDER --out RUN --minutes 90 [--set model.analysis_blocks=4 …]``.

With ``--labels CSV …`` it trains semantic heads jointly, supervised on those pictures and semi-supervised on all. Stops by
wall clock (or ``--steps``) or SIGTERM, writes a checkpoint every few minutes, and goes on from ``RUN/checkpoint.pt``, where
there is one, or begins with ``--resume``. The learning rate follows the share of the wall clock that is used up. ``torchrun
--nproc-per-node=N -m training.train …`` spreads the same run over N processes, each with its own batches; a run resumes on
any number of them.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from tqdm import tqdm

from .commands import one_line
from .config import HeadsConfig, ModelConfig, SemiConfig, TrainConfig
from .data import CropSampler, batches, random_rates, rates_of, read_split, to_signal
from .fused import as_written, compile_from_now_on
from .growth import load_grown
from .hardness import read_hardness
from .heads import SemanticHeads
from .joint import JointSampler, Objective, Teacher, task_of
from .labels import read_all
from .losses import LEAST, rate_distortion_loss
from .model import SemicodecModel
from .optim import load_state, make_optimiser, state_of
from .plots import RATES as VALIDATION_RATES
from .plots import plot_run
from .state import load_checkpoint, save_checkpoint

BROKEN_STEPS = 200
JOINT_WORKERS = 2  # of those that draw batches; the heads take part in some steps only
LOG_SECONDS, CHECKPOINT_SECONDS, VALIDATION_SECONDS = 60, 240, 600
VALIDATION_FIGURES = ("val_bpp", "val_psnr", "val_msssim", "val_xyb")
FIELDS = ["step", "minutes", "lr", "loss", "bpp", "psnr", "msssim", "xyb", "gradient_norm"]
FIELDS += ["supervised", "consistency", "embedding", "accepted"]  # of the heads: three losses, accepted pseudo-labels
FIELDS += [f"{what}_{rate}" for rate in VALIDATION_RATES for what in VALIDATION_FIGURES]


CONFIGS: dict[str, Any] = {"model": ModelConfig, "train": TrainConfig, "heads": HeadsConfig, "semi": SemiConfig}
SET_HELP = f"a field of training.config, VALUE in JSON; groups: {', '.join(CONFIGS)}"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--sets", default="", help="comma-separated sets of index.csv; all by default")
    parser.add_argument("--labels", type=Path, nargs="+", default=[], help="labels of pictures: train heads jointly")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run: checkpoint, logs")
    parser.add_argument("--resume", type=Path, help="begin a run with this checkpoint")
    parser.add_argument("--minutes", type=float, default=60, help="wall clock of the whole run, resumed parts counted in")
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many steps at the latest")
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.NAME=VALUE", help=SET_HELP)
    parser.add_argument("--restart-clock", action="store_true", help="with --resume: take the weights, count from zero")
    parser.add_argument("--hardness", type=Path, help="table of training.hardness: crops of hard pictures come more often")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to PyTorch")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw crops: a GPU keeps most cores busy")
    parser.add_argument("--limit", type=int, default=0, help="read only so many pictures")
    return parser.parse_args(arguments)


def configure(settings: list[str], before: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Apply ``GROUP.NAME=VALUE`` to the defaults, or to what a checkpoint holds; {group: configuration}.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    values: dict[str, dict[str, Any]] = {}
    for group, kind in CONFIGS.items():
        known = {f.name for f in dataclasses.fields(kind)}  # a checkpoint may hold settings that are no more
        values[group] = {k: v for k, v in (before or {}).get(group, {}).items() if k in known}
    for setting in settings:
        key, _, text = setting.partition("=")
        group, _, name = key.partition(".")
        if group not in CONFIGS:
            raise ValueError(f"unknown setting {key!r}; groups are {', '.join(CONFIGS)}")
        known = {f.name for f in dataclasses.fields(CONFIGS[group])}
        if name not in known:
            raise ValueError(f"unknown setting {key!r}; {group} has {', '.join(sorted(known))}")
        values[group][name] = _value(key, text, getattr(CONFIGS[group](), name))
    return {group: kind(**values[group]) for group, kind in CONFIGS.items()}


def _value(key: str, text: str, default: Any) -> Any:
    """JSON of the default's type; words need no quotes."""
    if isinstance(default, str):
        return text.strip('"')
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number if isinstance(default, float) else isinstance(value, list if isinstance(default, tuple) else type(default))
    if not fits or (isinstance(default, int) and isinstance(value, bool) != isinstance(default, bool)):
        raise ValueError(f"{key} takes a value like {json.dumps(default)}, not {text}")
    return value


def add_noise(target: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """The codec's input: some crops with Gaussian noise of a random deviation, the others as they are."""
    if not config.noise_share:
        return target
    chosen = torch.rand(len(target), generator=generator) < config.noise_share
    sigma = (torch.rand(len(target), generator=generator) * config.noise_sigma * chosen)[:, None, None, None]
    return (target + sigma.to(target.device) * torch.randn_like(target)).clamp(-0.5, 0.5)


def spread(count: int, rank: int, processes: int, generator: torch.Generator) -> NDArray[np.float64]:
    """Quantiles [count] of the rates of this process's crops: those of a step, all processes' together, are spread evenly
    over [0, 1), for their mix is noise in the gradient otherwise. ``generator`` has to be at the same place in all of them.
    """
    places = (torch.arange(count) * processes + rank) / (count * processes)
    quantiles: NDArray[np.float64] = ((torch.rand(1, generator=generator) + places) % 1).double().numpy()
    return quantiles


def common(seconds: float, stop: bool, processes: int) -> tuple[float, bool]:
    """The first process's clock, and any process's wish to stop, for all: they must leave the loop together, so that a
    signal counts from here on only.
    """
    if processes == 1:
        return seconds, stop
    values = torch.tensor([seconds if distributed.get_rank() == 0 else 0.0, float(stop)], dtype=torch.float64)
    if torch.cuda.is_available():
        values = values.cuda()
    distributed.all_reduce(values)
    return values[0].item(), bool(values[1])


class Log:
    """Rows into ``log.csv`` and, where it is installed, TensorBoard."""

    def __init__(self, folder: Path, fields: list[str]) -> None:
        self.folder, path = folder, folder / "log.csv"
        if path.exists() and path.read_text().partition("\n")[0] != ",".join(fields):
            os.replace(path, path.with_suffix(".old.csv"))  # of a version with other columns
        new = not path.exists()
        self.file = path.open("a", newline="")
        self.rows = csv.DictWriter(self.file, fields, lineterminator="\n")
        if new:
            self.rows.writeheader()
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board: Any = SummaryWriter(folder / "tensorboard")
        except ImportError:
            self.board = None

    def write(self, row: dict[str, Any]) -> None:
        self.rows.writerow(row)
        self.file.flush()
        if "val_bpp_0.5" in row:
            try:
                plot_run(self.folder)
            except Exception as error:  # whatever is wrong with a picture of the run must not end the run
                print(f"no plots: {error}")
        if self.board:
            for name, value in row.items():
                self.board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    warm_up = min(1.0, (step + 1) / 200)
    return config.lr * warm_up * min(1.0, max(0.0, (1 - progress) / (1 - config.lr_hold)))


def kept_share(config: TrainConfig, seen: float, left: float) -> float:
    """Of a moving average, when another step is added to it: so that it reaches back ``1 / (1 - ema_decay)`` steps, but no
    farther than a ninth of those that it has ``seen``, or that are ``left``: where the rate falls to 0 weights go one way
    more than to and fro, and their average lies behind them.
    """
    window = min(1 / (1 - config.ema_decay), (seen + 10) / 9, max(left / 9, 1))
    return 1 - 1 / window


def decibels(mse: Tensor) -> Tensor:
    """PSNR; that of a flat picture, which may be exact, has an end."""
    return -10 * torch.log10(mse.clamp_min(LEAST))


@torch.no_grad()
def validate(model: SemicodecModel, pictures: list[Any], config: TrainConfig, device: torch.device) -> dict[str, float]:
    rows: dict[float, list[tuple[float, ...]]] = {rate: [] for rate in VALIDATION_RATES}
    for picture in pictures:
        x = to_signal(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(device))
        with as_written():  # pictures have many shapes
            y = model.analysis(x).float()
            for rate, figures in rows.items():
                q = torch.tensor([rate], device=device)
                output = model(x, q, hard_rate=True, y=y)
                rd = rate_distortion_loss(output, x, q, model.rate_bank.rd_lambda(q), config, every=True)
                figures.append((rd.bpp.item(), decibels(rd.mse).item(), rd.msssim.item(), rd.xyb.item()))
    result: dict[str, float] = {}
    for rate, figures in rows.items():
        for name, values in zip(VALIDATION_FIGURES, zip(*figures, strict=True), strict=True):
            result[f"{name}_{rate}"] = sum(values) / len(values)
    return result


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
        # What is kept in float32 has to be (layers.Float32Conv2d): TF32 has three bits more than bfloat16.
        torch.backends.cudnn.allow_tf32 = False
    if processes > 1:
        distributed.init_process_group("nccl" if gpu else "gloo")
    stop = threading.Event()
    terminate = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: stop.set())

    # ---- state: fresh or from a checkpoint ----
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint_path = args.out / "checkpoint.pt"
    begun = checkpoint_path.exists()
    if begun and args.resume and args.resume.resolve() != checkpoint_path.resolve():
        raise ValueError(
            f"{checkpoint_path} would be replaced: without --resume and --restart-clock the run goes on from it; for a new "
            "run take another --out"
        )
    source = args.resume or (checkpoint_path if begun else None)
    state = load_checkpoint(source) if source else None
    # Settings given now go over the checkpoint's: a model may grow by parts that start silent.
    configs = configure(args.set, state and state["configs"])
    model_config, config, semi = configs["model"], configs["train"], configs["semi"]
    torch.manual_seed(config.seed)

    # ---- data ----
    chosen = tuple(s for s in args.sets.split(",") if s)
    training, names, validation = read_split(args.data, chosen, args.limit)
    weights = None
    if args.hardness:
        hardness = read_hardness(args.hardness)
        weights = [hardness.get(name, 1.0) for name in names]
    common_seed = config.seed + (state["step"] if state else 0)
    seed = common_seed + 1000 * rank
    sampler = CropSampler(
        training,
        config.crop,
        config.batch,
        config.grey_share,
        config.synthetic_share,
        seed,
        weights,
        config.vivid_share,
    )
    sets = read_all(args.labels)
    joint_sampler = JointSampler(sets, training, semi, seed) if sets else None
    crops = batches(sampler, args.workers, seed)
    joint_batches = batches(joint_sampler, min(args.workers, JOINT_WORKERS), seed) if joint_sampler else None

    # ---- model, heads, moving averages, optimiser ----
    model = SemicodecModel(model_config)
    sample = to_signal(torch.cat([sampler.next() for _ in range(64 // config.batch + 1)]))
    kept = {"tasks": [dataclasses.asdict(task_of(s)) for s in sets], "heads_config": dataclasses.asdict(configs["heads"])}
    same_heads = state is not None and bool(sets) and all(state.get(key) == value for key, value in kept.items())
    same_heads &= state is not None and state["configs"]["model"]["latent_channels"] == model_config.latent_channels
    if state and "heads" in state and not same_heads:
        if not args.restart_clock:
            raise ValueError(f"{source} was trained with heads of other labels or another shape; --restart-clock drops them")
        print(f"the heads of {source} are dropped: their labels or their shape are others")
    if not state:
        if model_config.eight_bit:
            raise ValueError("model.eight_bit rounds a trained model: train it in float first, then --resume it")
        model.initialise(sample)
    ema_model = SemicodecModel(model_config).requires_grad_(False)
    ema_model.load_state_dict(model.state_dict())
    step, elapsed_before = 0, 0.0
    averaged = 0  # steps that are in the model's averages
    if state:
        try:
            load_grown(ema_model, state["ema"])
            grown = load_grown(model, state["model"])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        if grown:
            if not args.restart_clock:
                raise ValueError(f"{source} has another shape; --restart-clock lets it grow into this one")
            print(f"grown or new, past {source}: {', '.join(grown)}")
        if not ema_model.calibrated:
            ema_model.calibrate(sample)  # and equalised: the average and its student must stay one another's like
            if processes > 1:  # every process saw crops of its own
                for tensor in ema_model.to(device).state_dict().values():
                    distributed.broadcast(tensor, 0)
            model.load_state_dict(ema_model.state_dict())
        averaged = 0 if grown else state.get("averaged", state["step"])
        if not args.restart_clock:
            step, elapsed_before = state["step"], state["seconds"]
    model, ema_model = (m.to(device, memory_format=torch.channels_last) for m in (model, ema_model))
    heads, ema_heads = None, None
    tasks = tuple(task_of(s) for s in sets)
    if sets:
        heads = SemanticHeads(model_config.latent_channels, tasks, configs["heads"])
        with torch.no_grad():
            heads.standardise(ema_model.semantic_latents(sample.to(device), random_rates(len(sample), device)).cpu())
        if state and same_heads:
            heads.load_state_dict({k: v.float() for k, v in state["heads"].items()})
        heads = heads.to(device)
        if processes > 1:  # every process fitted the scaling to crops of its own
            for buffer in heads.buffers():
                distributed.broadcast(buffer, 0)
        ema_heads = copy.deepcopy(heads).requires_grad_(False).eval()
        if state and same_heads and "heads_student" in state:
            heads.load_state_dict(state["heads_student"])
    objective = Objective(model, heads, sets, config, semi)
    parameters = list(objective.parameters())
    optimiser = make_optimiser(objective, config)
    warm = 0  # step from which on the rate rises to what it is to be: moments are empty
    if state and "optimiser" in state and not args.restart_clock:
        load_state(optimiser, objective, state["optimiser"], only="" if same_heads else "model.")
    else:
        warm = step
    if state and same_heads and "alignments" in state:
        objective.load_alignments(state["alignments"])
    compile_from_now_on(config.compile)  # or not: another run of this process may have
    forward: nn.Module = objective
    if processes > 1:  # the heads take part in some steps only
        forward = nn.parallel.DistributedDataParallel(objective, find_unused_parameters=bool(sets))
    averages = [(list(ema_model.parameters()), list(model.parameters()), averaged)]
    teacher = None
    if heads is not None and ema_heads is not None:
        averages.append((list(ema_heads.parameters()), list(heads.parameters()), averaged if same_heads else 0))
        teacher = Teacher(ema_model, ema_heads)

    def checkpoint() -> None:
        if rank:
            return
        content = {
            "model": model.state_dict(),
            "ema": ema_model.state_dict(),
            "optimiser": state_of(optimiser, objective),
            "step": step,
            "averaged": averaged + step - first_step,
            "seconds": elapsed,
            "configs": json.dumps({group: dataclasses.asdict(c) for group, c in configs.items()}),
        }
        if heads is not None and ema_heads is not None:
            content |= {"heads": ema_heads.state_dict(), "heads_student": heads.state_dict(), **kept}
            content["alignments"] = objective.alignments()
        save_checkpoint(checkpoint_path, content)

    # ---- logs ----
    log = Log(args.out, FIELDS) if not rank else None
    if not rank:
        print(json.dumps({group: dataclasses.asdict(c) for group, c in configs.items()}))
        count = sum(p.numel() for p in parameters)
        print(f"{count / 1e6:.2f} M parameters, {len(training)} pictures, {processes} x {device}")

    # ---- the run ----
    start, first_step = time.monotonic(), step
    elapsed = compiled = elapsed_before
    last_log = last_checkpoint = last_validation = elapsed
    sums, count, broken = torch.zeros(6, device=device), 0, 0
    torch.manual_seed(seed)  # noise of its own in every process
    semi_rows: list[tuple[float, ...]] = []
    progress_bar = tqdm(initial=step, unit="step", mininterval=10, disable=bool(rank))
    generator = torch.Generator().manual_seed(seed)
    rate_generator = torch.Generator().manual_seed(common_seed)
    leaving = False
    while elapsed < args.minutes * 60 and step < args.steps and not leaving:
        progress = max(elapsed / (args.minutes * 60), step / args.steps)
        lr = learning_rate(config, step - warm, progress)
        for group in optimiser.param_groups:
            group["lr"] = lr * group["speed"]
        target = to_signal(next(crops).to(device, non_blocking=True))
        rate = torch.from_numpy(rates_of(spread(len(target), rank, processes, rate_generator))).to(device, non_blocking=True)
        x = add_noise(target, config, generator)
        joint = next(joint_batches) if joint_batches is not None and step % semi.every == 0 else None
        if teacher:
            teacher.progress = progress
        losses = forward(x, target, rate, joint, teacher)
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        if torch.isfinite(norm):  # one broken batch must not end the run
            optimiser.step()
            model.clamp_integer_weights()
            with torch.no_grad():
                timed = step - first_step - 1  # the first one may have been minutes of a compiler's
                pace = timed / max(elapsed - compiled, 1e-3) if timed > 0 else math.inf
                left = min(args.steps - step, (args.minutes * 60 - elapsed) * pace)
                for mean, current, before in averages:
                    kept_of_mean = kept_share(config, before + step - first_step, left)
                    torch._foreach_lerp_(mean, current, 1 - kept_of_mean)
            rd, broken = losses.codec, 0
            psnr = decibels(rd.mse).mean()
            sums += torch.stack([v.detach() for v in (rd.loss, rd.bpp.mean(), psnr, rd.msssim.mean(), rd.xyb.mean(), norm)])
            count += 1
            if losses.semi:
                semi_rows.append(losses.semi[1:])
        else:
            broken += 1
            if broken >= BROKEN_STEPS:
                raise FloatingPointError(
                    f"gradients are not finite for {broken} steps in a row; the last checkpoint is good"
                )
        step += 1
        progress_bar.update()
        seconds, leaving = common(time.monotonic() - start, stop.is_set(), processes)
        elapsed = elapsed_before + seconds
        compiled = elapsed if step == first_step + 1 else compiled
        if elapsed - last_log > LOG_SECONDS and count:
            row = dict(zip(FIELDS, [step, elapsed / 60, lr, *(sums / count).tolist()], strict=False))
            row.update(zip(FIELDS[9:13], [sum(v) / len(semi_rows) for v in zip(*semi_rows, strict=True)], strict=False))
            sums.zero_()
            count, last_log = 0, elapsed
            semi_rows.clear()
            if elapsed - last_checkpoint > CHECKPOINT_SECONDS:
                last_checkpoint = elapsed
                checkpoint()
            if elapsed - last_validation > VALIDATION_SECONDS and not rank:
                last_validation = elapsed
                row.update(validate(ema_model, validation, config, device))
            if log:
                log.write(row)
            progress_bar.set_postfix_str(f"loss {row['loss']:.4f} bpp {row['bpp']:.3f} psnr {row['psnr']:.2f}")
    checkpoint()
    if log:
        final = {"step": step, "minutes": elapsed / 60, **validate(ema_model, validation, config, device)}
        log.write(final)
        log.close()
        progress_bar.close()
        print(json.dumps(final))
    if processes > 1:
        distributed.barrier()  # gloo aborts a process whose peers leave first
        distributed.destroy_process_group()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate or signal.SIG_DFL)


if __name__ == "__main__":
    with one_line("train"):
        main()
