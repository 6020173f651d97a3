"""Semi-supervised learning of the semantic heads: supervised losses, an EMA teacher, pseudo-labels and consistency.

The teacher, an exponential moving average of the student (Mean Teacher, Tarvainen & Valpola 2017), labels weakly
augmented views; where it is confident, the student must say the same of a strong view (FixMatch, Sohn et al. 2020),
after the teacher's distribution of classes has been aligned with the labels' (ReMixMatch, Berthelot et al. 2020). The
embeddings of two views of a picture attract each other and repel those of other pictures (InfoNCE, Oord et al. 2018).
Maps follow the teacher's probabilities instead, as Mean Teacher does: from a handful of masks the hard labels of a map,
and embeddings of whole pictures, cost more than they bring (RESULTS.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import SemiConfig
from .heads import HeadsOutput, SemanticHeads, Task
from .labels import IGNORE, SEGMENTATION
from .views import check_augmentation


class EmaTeacher:
    """A moving average of ``student`` that labels and never learns; also what is kept in the end."""

    def __init__(self, student: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(student).requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        torch._foreach_lerp_(list(self.model.parameters()), list(student.parameters()), 1 - decay)


class DistributionAlignment:
    """Brings pseudo-labels to the labels' distribution of classes, against the drift towards the easy ones."""

    def __init__(self, prior: Tensor) -> None:
        self.prior, self.running = prior / prior.sum(), prior / prior.sum()

    def __call__(self, probabilities: Tensor) -> Tensor:
        """[B, K] → [B, K]; follows the mean of what it has seen."""
        self.prior, self.running = self.prior.to(probabilities.device), self.running.to(probabilities.device)
        self.running = 0.98 * self.running + 0.02 * probabilities.mean(0)
        aligned = probabilities * (self.prior / self.running.clamp_min(1e-6))
        return aligned / aligned.sum(1, keepdim=True)


class PseudoLabels(NamedTuple):
    labels: Tensor  # [B] or [B, h, w]
    accepted: Tensor  # of the same shape, float: 1 where the teacher is confident enough


def pseudo_labels(logits: Tensor, threshold: float, alignment: DistributionAlignment | None = None) -> PseudoLabels:
    """From the teacher's logits [B, K] or [B, K, h, w]."""
    probabilities = logits.softmax(1)
    if alignment is not None:
        probabilities = alignment(probabilities)
    confidence, labels = probabilities.max(1)
    return PseudoLabels(labels, (confidence >= threshold).float())


def consistency_loss(student: Tensor, pseudo: PseudoLabels) -> Tensor:
    """Cross-entropy of the student's logits on strong views against accepted pseudo-labels; the others count as 0."""
    return (F.cross_entropy(student, pseudo.labels, reduction="none") * pseudo.accepted).mean()


def soft_consistency_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of two predictions, logits [B, K, h, w], summed over the classes; the teacher is the target."""
    return (student.softmax(1) - teacher.detach().softmax(1)).square().sum(1).mean()


def embedding_loss(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE of embeddings [B, D] of norm 1: row i of ``a`` belongs to row i of ``b``."""
    return F.cross_entropy(a @ b.T / temperature, torch.arange(len(a), device=a.device))


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy plus Dice (Milletari et al., 2016) of logits [B, K, h, w]; mask [B, h, w], ``IGNORE`` left out."""
    valid = mask != IGNORE
    if not valid.any():
        return logits.sum() * 0
    entropy = F.cross_entropy(logits, torch.where(valid, mask, -100).long(), ignore_index=-100)
    truth = F.one_hot(torch.where(valid, mask, 0).long(), logits.shape[1]).permute(0, 3, 1, 2) * valid[:, None]
    guess = logits.softmax(1) * valid[:, None]
    overlap, total = (guess * truth).sum((0, 2, 3)), (guess + truth).sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    dice = 1 - (2 * overlap + 1)[present] / (total + 1)[present]
    return entropy + dice.mean()


def cell_labels(mask: Tensor, classes: int, cell: int = 16) -> Tensor:
    """The most frequent class of every cell: mask [B, H, W] → [B, H/cell, W/cell]; ``IGNORE`` where most is ignored."""
    winners = []
    for one in mask:  # one-hot maps of many pictures at once would take gigabytes
        counts = F.one_hot(torch.where(one == IGNORE, classes, one).long(), classes + 1).permute(2, 0, 1).float()
        winners.append(F.avg_pool2d(counts[None], cell)[0].argmax(0))
    winner = torch.stack(winners)
    return torch.where(winner == classes, IGNORE, winner)


def ramp(progress: float, ramp_up: float) -> float:
    """Weight of unlabelled pictures, 0 → 1, as Laine & Aila (2017) raise it."""
    if ramp_up <= 0 or progress >= ramp_up:
        return 1.0
    return float(torch.exp(torch.tensor(-5 * (1 - progress / ramp_up) ** 2)))


POSITIONS = 4096  # of latents in a batch, at most: large views come in small batches
MAP_BATCH = 12  # pictures with maps in a batch, at most


class Step(NamedTuple):
    loss: Tensor
    supervised: float
    consistency: float
    embedding: float
    accepted: float  # share of pseudo-labels that were confident enough


class SemiSupervisedLoss:
    """The losses of one task's heads on latents of labelled and unlabelled views."""

    def __init__(self, task: Task, config: SemiConfig, prior: Tensor | None = None) -> None:
        self.task, self.config = task, config
        self.alignment = DistributionAlignment(prior) if config.align and prior is not None else None

    def supervised(self, output: HeadsOutput, labels: Tensor) -> Tensor:
        """labels [B] of classes, or [B, h, w] of cells."""
        logits = output.logits[self.task.name]
        if self.task.kind == SEGMENTATION:
            return self.config.segmentation_weight * segmentation_loss(logits, labels)
        return self.config.supervised_weight * F.cross_entropy(logits, labels)

    def __call__(
        self, student: HeadsOutput, labels: Tensor, strong: HeadsOutput | None, weak: HeadsOutput | None, progress: float
    ) -> Step:
        """
        Args:
            student: output on labelled views; ``labels`` theirs.
            strong, weak: the student's output on strong and the teacher's on weak views of unlabelled pictures.
            progress: share of the run that is done, for the ramp.
        """
        supervised = self.supervised(student, labels)
        if strong is None or weak is None:
            return Step(supervised, supervised.item(), 0.0, 0.0, 0.0)
        weight = ramp(progress, self.config.ramp_up)
        guess, target = strong.logits[self.task.name], weak.logits[self.task.name].detach()
        pseudo = pseudo_labels(target, self.config.threshold, self.alignment)
        if self.task.kind == SEGMENTATION:
            consistency = soft_consistency_loss(guess, target)
            loss = supervised + weight * self.config.map_unsup_weight * consistency
            return Step(loss, supervised.item(), consistency.item(), 0.0, pseudo.accepted.mean().item())
        consistency = consistency_loss(guess, pseudo)
        loss = supervised + weight * self.config.unsup_weight * consistency
        embedding = embedding_loss(strong.embedding, weak.embedding.detach(), self.config.temperature)
        loss = loss + self.config.embedding_weight * embedding
        return Step(loss, supervised.item(), consistency.item(), embedding.item(), pseudo.accepted.mean().item())


def endless(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of up to ``count`` indexes below it, no index twice in one: round after round in a new order, of which the
    rest that makes no batch is left out.
    """
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count // batch * batch].split(batch)


def _channels_last(latents: Tensor) -> Tensor:
    return latents.float().contiguous(memory_format=torch.channels_last)


class Views(NamedTuple):
    """Latents of views of the same pictures on a frozen codec."""

    weak: Tensor  # [N, K, C, h, w], 16 bits
    strong: Tensor
    labels: Tensor  # [N] classes, or [N, K, h, w] cells of the weak and strong views

    def pick(self, kind: str, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One random view of every row, of kind "none" always the same weak one: latents [B, C, h, w] and labels."""
        views = self.strong if kind == "strong" else self.weak
        k = torch.randint(views.shape[1], (len(rows),), generator=generator)
        if kind == "none":
            k.zero_()
        return _channels_last(views[rows, k]), self.labels[rows, k] if self.labels.ndim > 1 else self.labels[rows]

    def pick_pair(self, rows: Tensor, generator: torch.Generator, kind: str = "strong") -> tuple[Tensor, Tensor]:
        """(weak, ``kind``) views: for maps the same window, for classes any two."""
        k = torch.randint(self.weak.shape[1], (len(rows),), generator=generator)
        other = k if self.labels.ndim > 1 else torch.randint(self.strong.shape[1], (len(rows),), generator=generator)
        views = self.strong if kind == "strong" else self.weak
        return _channels_last(self.weak[rows, k]), _channels_last(views[rows, other])


def pretrain(heads: SemanticHeads, views: list[Views], config: SemiConfig) -> list[float]:
    """Unsupervised: the trunk learns to tell pictures apart, two views of one from those of all others (InfoNCE against a
    moving average, as MoCo, He et al. 2020, does). No label is looked at. Returns the losses.
    """
    generator = torch.Generator().manual_seed(config.seed)
    heads.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(heads.parameters(), config.lr, weight_decay=config.weight_decay)
    teacher = EmaTeacher(heads, config.teacher_decay)
    sizes = [max(8, 2 * POSITIONS // (v.weak.shape[3] * v.weak.shape[4])) for v in views]
    turns = [
        endless(len(v.labels), min(config.pretrain_batch, size, len(v.labels)), generator)
        for v, size in zip(views, sizes, strict=True)
    ]
    losses = []
    for step in range(config.pretrain_steps):
        for group in optimiser.param_groups:
            group["lr"] = config.lr * min(1.0, (step + 1) / 20, 2 * (1 - step / config.pretrain_steps))
        turn = step % len(views)
        x_weak, x_strong = views[turn].pick_pair(next(turns[turn]), generator, config.augmentation)
        with torch.autocast(x_weak.device.type, torch.bfloat16):
            with torch.no_grad():
                keys = teacher.model(x_weak).embedding.float()
            loss = embedding_loss(heads(x_strong).embedding.float(), keys, config.temperature)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
        optimiser.step()
        teacher.update(heads)
        losses.append(loss.item())
    heads.load_state_dict(teacher.model.state_dict())
    return losses


class TaskData(NamedTuple):
    """What one task learns from: rows of ``views`` with labels to look at, and rows whose pictures alone may be used."""

    task: Task
    views: Views
    labelled: Tensor
    unlabelled: Tensor | None  # None trains supervised only


class _Turn:
    """Batches and objective of one task."""

    def __init__(self, data: TaskData, config: SemiConfig, generator: torch.Generator) -> None:
        self.data, self.generator = data, generator
        prior = None
        if data.views.labels.ndim == 1:
            prior = torch.bincount(data.views.labels[data.labelled], minlength=len(data.task.classes)).float()
        self.objective = SemiSupervisedLoss(data.task, config, prior)
        maps = data.views.labels.ndim > 1  # more positions count, so fewer pictures do
        most = MAP_BATCH if maps else max(8, POSITIONS // (data.views.weak.shape[3] * data.views.weak.shape[4]))
        sizes = [min(n, most) for n in (config.labelled_batch, config.unlabelled_batch)]
        self.shown = endless(len(data.labelled), min(sizes[0], len(data.labelled)), generator)
        self.others = None
        if data.unlabelled is not None:
            self.others = endless(len(data.unlabelled), min(sizes[1], len(data.unlabelled)), generator)

    def step(self, heads: SemanticHeads, teacher: EmaTeacher, kind: str, progress: float) -> Step:
        x, labels = self.data.views.pick(kind, self.data.labelled[next(self.shown)], self.generator)
        with torch.autocast(x.device.type, torch.bfloat16):
            if self.others is None or self.data.unlabelled is None:
                return self.objective(_float(heads(x)), labels, None, None, progress)
            others = self.data.unlabelled[next(self.others)]
            x_weak, x_strong = self.data.views.pick_pair(others, self.generator, self.objective.config.augmentation)
            both = _float(heads(torch.cat([x, x_strong])))
            with torch.no_grad():
                weak = _float(teacher.model(x_weak))
        student, strong = (_rows(both, rows) for rows in (slice(len(x)), slice(len(x), None)))
        return self.objective(student, labels, strong, weak, progress)


def train_heads(heads: SemanticHeads, data: list[TaskData], config: SemiConfig) -> tuple[SemanticHeads, list[Step]]:
    """Train heads on a frozen codec's latents, the tasks in turn, ``config.steps`` each.

    Returns:
        The teacher (the moving average), and every step of the history.
    """
    check_augmentation(config.augmentation)
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    turns = [_Turn(task_data, config, generator) for task_data in data]
    optimiser = torch.optim.AdamW(heads.parameters(), config.lr, weight_decay=config.weight_decay)
    heads.to(memory_format=torch.channels_last).train()
    teacher = EmaTeacher(heads, config.teacher_decay)
    history = []
    steps = config.steps * len(turns)
    for step in range(steps):
        progress = step / steps
        for group in optimiser.param_groups:
            group["lr"] = config.lr * min(1.0, (step + 1) / 20, 2 * (1 - progress))
        kind = "weak" if config.augmentation == "strong" and step // len(turns) % 2 else config.augmentation
        result = turns[step % len(turns)].step(heads, teacher, kind, progress)
        optimiser.zero_grad(set_to_none=True)
        result.loss.backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
        optimiser.step()
        teacher.update(heads)
        history.append(result._replace(loss=result.loss.detach()))
    return teacher.model, history


def _float(output: HeadsOutput) -> HeadsOutput:
    return HeadsOutput({name: v.float() for name, v in output.logits.items()}, output.embedding.float())


def _rows(output: HeadsOutput, rows: slice) -> HeadsOutput:
    return HeadsOutput({name: v[rows] for name, v in output.logits.items()}, output.embedding[rows])


# ---- measuring -------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(heads: SemanticHeads, latents: Tensor, task: str, batch: int = 64) -> Tensor:
    """Logits of 16-bit latents [N, C, h, w]."""
    heads = heads.eval().to(memory_format=torch.channels_last)
    return torch.cat([heads(_channels_last(part)).logits[task] for part in latents.split(batch)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).float().mean().item()


def confusion(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """[K, K], rows truth, columns guess; ``IGNORE`` left out."""
    guess, truth = logits.argmax(1).flatten(), labels.flatten().long()
    valid = truth != IGNORE
    return torch.bincount(truth[valid] * classes + guess[valid], minlength=classes**2).view(classes, classes)


def mean_iou(matrix: Tensor) -> float:
    """Mean intersection over union of the classes that occur."""
    hit = matrix.diag().float()
    union = matrix.sum(0) + matrix.sum(1) - matrix.diag()
    return (hit / union.clamp_min(1))[matrix.sum(1) > 0].mean().item()


def hold_out(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(rows to train on, rows to calibrate on): every tenth picture of each class of ten or more is held out."""
    kept = torch.ones(len(labels), dtype=torch.bool)
    if labels.ndim == 1:
        for label in labels.unique():
            rows = torch.nonzero(labels == label)[:, 0]
            kept[rows[9::10]] = False
    return torch.nonzero(kept)[:, 0], torch.nonzero(~kept)[:, 0]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Temperature that minimises the cross-entropy of held-out pictures (Guo et al., 2017)."""
    if logits.ndim > 2:
        labels = labels.flatten()
        logits = logits.movedim(1, -1).flatten(0, -2)[labels != IGNORE]
        labels = labels[labels != IGNORE].long()
    grid = torch.logspace(-1, 1, 61, 10)
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in grid])
    return float(grid[losses.argmin()])
