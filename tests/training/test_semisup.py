"""Semi-supervised learning: losses that do what their papers say, heads that learn, runs in several processes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_msssim")

import numpy as np  # noqa: E402
from conftest import TINY, photo  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402
from small_run import SETTINGS, small_pictures  # noqa: E402

import pillow_semicodec as sgc  # noqa: E402
from pillow_semicodec import bundle  # noqa: E402
from training import finish_heads, plots, semantics, train, transfer, views  # noqa: E402
from training.commands import ExportError  # noqa: E402
from training.compact import compact  # noqa: E402
from training.config import HeadsConfig, SemiConfig  # noqa: E402
from training.export_heads import export_heads  # noqa: E402
from training.heads import HeadsOutput, SemanticHeads, Task, decoded_pixels_as_latents  # noqa: E402
from training.joint import JointSampler  # noqa: E402
from training.labels import CLASSIFICATION, IGNORE, SEGMENTATION, read_labels  # noqa: E402
from training.perceptual import msssim, xyb_error  # noqa: E402
from training.semisup import (  # noqa: E402
    DistributionAlignment,
    EmaTeacher,
    SemiSupervisedLoss,
    TaskData,
    Views,
    accuracy,
    cell_labels,
    confusion,
    consistency_loss,
    embedding_loss,
    endless,
    fit_temperature,
    mean_iou,
    predict,
    pretrain,
    pseudo_labels,
    ramp,
    segmentation_loss,
    soft_consistency_loss,
    train_heads,
)
from training.state import load_checkpoint, save_checkpoint  # noqa: E402

SMALL = HeadsConfig(width=8, coarse_width=8, coarse_blocks=1, embedding=8, dropout=0.0)
TWO = Task("two", CLASSIFICATION, ("left", "right"))


def coloured(folder: Path, count: int = 12) -> Path:
    """A folder of two classes that differ in colour."""
    for name, channel in (("red", 0), ("blue", 2)):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            picture = photo(96, 112, k) // 3
            picture[:, :, channel] += 120
            Image.fromarray(picture).save(folder / name / f"{k}.png")
    return folder


def test_pseudo_labels() -> None:
    """Only confident ones count, and only they pull the student."""
    logits = torch.tensor([[4.0, 0.0], [0.2, 0.0], [0.0, 9.0]])
    labels, accepted = pseudo_labels(logits, 0.9)
    assert labels.tolist() == [0, 0, 1]
    assert accepted.tolist() == [1, 0, 1]
    student = torch.zeros(3, 2, requires_grad=True)
    consistency_loss(student, pseudo_labels(logits, 0.9)).backward()
    assert student.grad is not None
    assert student.grad[1].abs().sum() == 0
    assert student.grad[0, 0] < 0
    maps = pseudo_labels(torch.randn(2, 3, 4, 5), 0.5)
    assert maps.labels.shape == maps.accepted.shape == (2, 4, 5)


def test_maps_follow_the_teachers_probabilities() -> None:
    """Nothing to learn where both agree; otherwise the student moves to the teacher, and the embeddings stay out of it."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, 5, generator=generator, requires_grad=True) for _ in range(2))
    assert soft_consistency_loss(student, student) == 0
    before = soft_consistency_loss(student, teacher)
    before.backward()
    assert teacher.grad is None and student.grad is not None
    assert soft_consistency_loss(student - 5 * student.grad, teacher) < before

    loss = SemiSupervisedLoss(Task("street", SEGMENTATION, ("a", "b", "c")), SemiConfig(ramp_up=0.0, map_unsup_weight=2.0))
    said = [HeadsOutput({"street": x}, torch.eye(2)) for x in (student, student, teacher)]
    step = loss(said[0], torch.zeros(2, 4, 5, dtype=torch.long), said[1], said[2], 1.0)
    assert step.loss.item() == pytest.approx(step.supervised + 2 * before.item(), rel=1e-5)
    assert step.embedding == 0


def test_alignment_follows_the_prior() -> None:
    """A teacher that always says the same class is brought back towards the labels' distribution."""
    align = DistributionAlignment(torch.tensor([50.0, 50.0]))
    biased = torch.tensor([[0.7, 0.3]]).repeat(8, 1)
    for _ in range(200):
        aligned = align(biased)
    assert aligned[0, 0] == pytest.approx(0.5, abs=0.02)
    assert aligned.sum(1).allclose(torch.ones(8))


def test_ramp() -> None:
    """From nearly nothing to 1, monotone; off when there is no ramp."""
    values = [ramp(p, 0.4) for p in (0, 0.1, 0.2, 0.3, 0.4, 1)]
    assert values == sorted(values)
    assert values[0] < 0.01
    assert values[-1] == values[-2] == 1
    assert ramp(0, 0) == 1


def test_embedding_loss() -> None:
    """Small where every row is most like its partner, large where partners are exchanged."""
    rows = torch.nn.functional.normalize(torch.eye(4) + 0.01, dim=1)
    assert embedding_loss(rows, rows, 0.1) < 0.01
    assert embedding_loss(rows, rows.flip(0), 0.1) > 5


def test_segmentation_loss_and_cells() -> None:
    """Perfect maps cost nothing, ignored cells neither; cells take the most frequent class."""
    mask = torch.zeros(1, 32, 32, dtype=torch.long)
    mask[:, :, 20:] = 1
    mask[:, 16:] = IGNORE
    cells = cell_labels(mask, 2)
    assert cells.tolist() == [[[0, 1], [IGNORE, IGNORE]]]
    right = torch.nn.functional.one_hot(cells.clamp_max(1), 2).permute(0, 3, 1, 2) * 50.0
    assert segmentation_loss(right, cells) < 0.2
    assert segmentation_loss(-right, cells) > 10
    assert segmentation_loss(right, torch.full_like(cells, IGNORE)) == 0


def test_scores() -> None:
    """Confusion counts, mean IoU and temperature on known cases."""
    logits = torch.eye(3)[torch.tensor([0, 1, 1, 2])] * 9
    labels = torch.tensor([0, 1, 2, IGNORE])
    matrix = confusion(logits, labels, 3)
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert mean_iou(matrix) == pytest.approx((1 + 0.5 + 0) / 3)
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])) == 0.75
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(4000, 3, generator=generator)
    drawn = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(honest * 4, drawn) == pytest.approx(4, rel=0.15)


def test_teacher_follows() -> None:
    """The average moves towards the student, never jumps, and has no gradients."""
    student = torch.nn.Linear(2, 2)
    teacher = EmaTeacher(student, 0.9)
    with torch.no_grad():
        student.weight += 1
    before = teacher.model.weight.clone()
    for _ in range(300):
        teacher.update(student)
    assert (teacher.model.weight - student.weight).abs().max() < 1e-3
    assert not torch.equal(before, teacher.model.weight)
    assert not any(p.requires_grad for p in teacher.model.parameters())


def separable(count: int, generator: torch.Generator) -> Views:
    """Latents of two classes, apart in one channel, every view with noise of its own."""
    labels = torch.arange(count) % 2
    base = torch.randn(count, 1, 6, 4, 4, generator=generator) * 0.5
    base[:, :, 0] += (labels * 2 - 1)[:, None, None, None] * 1.5
    weak, strong = (base + noise * torch.randn(count, 3, 6, 4, 4, generator=generator) for noise in (0.3, 0.8))
    return Views(weak.half(), strong.half(), labels)


@given(st.integers(1, 40), st.data())
def test_batches_hold_no_picture_twice(count: int, data: st.DataObject) -> None:
    """A copy would count as another picture that a picture is told from; in the long run each comes as often as the next."""
    batch = data.draw(st.integers(1, count))
    batches = list(itertools.islice(endless(count, batch, torch.Generator().manual_seed(0)), 60))
    assert all(len(b) == batch == len(b.unique()) for b in batches)
    seen = torch.bincount(torch.cat(batches), minlength=count)
    assert len(seen) == count
    assert batch < count or (seen == 60).all()


@pytest.mark.parametrize("semi", [False, True])
def test_heads_learn(semi: bool) -> None:
    """A few labels suffice where classes are apart; with unlabelled pictures their labels are never looked at."""
    data = separable(60, torch.Generator().manual_seed(0))
    labelled, unlabelled = torch.arange(8), torch.arange(8, 60)
    hidden = data._replace(labels=torch.where(torch.arange(60) < 8, data.labels, 99))
    heads = SemanticHeads(6, (TWO,), SMALL)
    config = SemiConfig(steps=60, lr=1e-2, teacher_decay=0.9, labelled_batch=8, unlabelled_batch=16)
    heads, history = train_heads(heads, [TaskData(TWO, hidden, labelled, unlabelled if semi else None)], config)
    assert accuracy(predict(heads, data.weak[:, 0], "two"), data.labels) > 0.9
    assert history[-1].supervised < history[0].supervised
    assert (history[-1].accepted > 0.5) == semi


def test_attention_starts_as_the_identity() -> None:
    """The attention block changes nothing before it has learned, and works at any size."""
    torch.manual_seed(1)
    plain = SemanticHeads(6, (TWO,), SMALL).eval()
    torch.manual_seed(1)
    attentive = SemanticHeads(6, (TWO,), dataclasses.replace(SMALL, attention=True)).eval()
    attentive.load_state_dict(plain.state_dict(), strict=False)
    for shape in ((1, 6, 2, 2), (2, 6, 10, 6)):
        latents = torch.randn(shape)
        assert torch.allclose(plain(latents).logits["two"], attentive(latents).logits["two"])
    torch.nn.init.normal_(attentive.attention.expand.weight)
    assert not torch.allclose(plain(latents).logits["two"], attentive(latents).logits["two"])


def test_pixels_through_the_same_heads() -> None:
    """Decoded pixels have the shape of latents with 768 channels."""
    assert decoded_pixels_as_latents(torch.zeros(2, 3, 32, 48, dtype=torch.uint8)).shape == (2, 768, 2, 3)


@pytest.mark.parametrize("augmentation", views.AUGMENTATIONS)
def test_views(augmentation: str) -> None:
    """Of the size asked for, the same for the same seed; "none" never changes, the others do."""
    image = Image.fromarray(photo(120, 90))
    first, again, other = (views.view(image, 64, np.random.default_rng(seed), augmentation) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (augmentation == "none")
    with pytest.raises(ValueError, match="strong"):
        views.check_augmentation("stronger")


def test_paired_views_agree() -> None:
    """Window and mirror of picture, strong view and mask are the same."""
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:, 64:] = 255
    for seed in range(8):
        random = np.random.default_rng(seed)
        weak, strong, mask = views.paired_views(Image.fromarray(picture), picture[:, :, 0] // 255, (64, 48), random)
        assert mask is not None
        assert weak.shape == strong.shape == (48, 64, 3)
        assert ((weak[:, :, 0] > 127) == mask).mean() > 0.97


@given(st.integers(20, 900), st.integers(20, 900), st.sampled_from([(64, 48), (192, 192)]), st.integers(0, 99))
def test_views_of_maps_are_near_the_scale_they_are_drawn_at(
    width: int, height: int, size: tuple[int, int], seed: int
) -> None:
    """They lie in the picture; where that is large enough, pixels stay about as large as they are."""
    left, top, right, bottom = views.window_of(Image.new("L", (width, height)), np.random.default_rng(seed), size)
    assert 0 <= left < right <= width + 1e-6
    assert 0 <= top < bottom <= height + 1e-6
    assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1])
    scale, most = (right - left) / size[0], min(width / size[0], height / size[1])
    assert min(views.SHRUNK[0], most) - 1e-6 <= scale <= min(views.SHRUNK[1], most) + 1e-6


def test_xyb_error_is_ssimulacra2() -> None:
    """The differentiable error gives SSIMULACRA2's score, also where light and dark are near one another, but that borders
    are another matter; and its gradient improves the picture.
    """
    pytest.importorskip("ssimulacra2")
    from pillow_semicodec.metrics import ssimulacra2

    random = np.random.default_rng(0)
    leaves = np.where(random.random((450, 450, 1)) < 0.5, photo(450, 450, 1) // 6, 255 - photo(450, 450, 2) // 6)
    for original, noise in ((photo(450, 450), 16), (leaves, 20)):
        worse = original.copy()
        inner = worse[112:-112, 112:-112]
        inner[:] = np.clip(inner + random.normal(0, noise, inner.shape), 0, 255)
        a, b = (torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255 for p in (original, worse))
        raw = 0.9562382616834844 * xyb_error(a, b).item()
        total = 2.326765642916932 * raw - 0.020884521182843837 * raw**2 + 6.248496625763138e-05 * raw**3
        assert 100 - 10 * total**0.6276336467831387 == pytest.approx(ssimulacra2(original, worse), abs=0.1)
        b.requires_grad_()
        error = xyb_error(a, b)
        error.sum().backward()
        assert b.grad is not None
        assert b.grad.isfinite().all()
        step = (b - 0.002 * b.grad.sign()).detach()
        assert xyb_error(a, step) < error
    assert xyb_error(a, a).item() < 0.05  # the floor of the 4-norms, a score of 98.9


@pytest.mark.parametrize("size", [(192, 256), (201, 187)])
def test_msssim_is_the_reference(size: tuple[int, int]) -> None:
    """Values and gradients are those of pytorch-msssim."""
    from pytorch_msssim import ms_ssim

    a = torch.from_numpy(np.stack([photo(*size, seed) for seed in (0, 1)])).permute(0, 3, 1, 2).float() / 255
    b = (a + 0.05 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1).requires_grad_()
    gradients = []
    for ours in (True, False):
        value = msssim(a, b) if ours else ms_ssim(b, a, data_range=1.0, size_average=False)
        gradients.append((value.detach(), *torch.autograd.grad(value.sum(), b)))
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-5)
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-6)


# ---- whole runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path: Path) -> list[str]:
    """A CSV of classes and one of masks."""
    folder = coloured(tmp_path / "two", 6)
    rows = [f"two/{p.parent.name}/{p.name},{p.parent.name},train" for p in sorted(folder.rglob("*.png"))]
    (tmp_path / "two.csv").write_text("path,class,split\n" + "\n".join(rows) + "\n")
    mask = np.zeros((192, 192), np.uint8)
    mask[96:] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(photo(192, 192, 7)).save(tmp_path / "scene.png")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": {"0": "sky", "1": "sea"}}))
    (tmp_path / "seg.csv").write_text("image,mask,split\nscene.png,mask.png,train\n")
    return [str(tmp_path / "two.csv"), str(tmp_path / "seg.csv")]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return small_pictures(tmp_path / "data")


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning", "ignore:.*fork:DeprecationWarning")
def test_joint_training(labelled: list[str], pictures: Path, tmp_path: Path) -> None:
    """Codec and heads learn in one run; the checkpoint holds both, and heads are never dropped unasked."""
    arguments = ["--data", str(pictures), "--out", str(tmp_path / "run"), "--threads", "1", "--set", "semi.every=1"]
    train.main([*arguments, "--labels", *labelled, "--steps", "4", *SETTINGS])
    assert (tmp_path / "run" / "plots.png").stat().st_size > 10_000
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert [task["name"] for task in state["tasks"]] == ["two", "seg"]
    assert state["heads"]["outputs.task_seg.weight"].shape[:2] == (2, 64)
    train.main([*arguments, "--labels", *labelled, "--steps", "6", "--workers", "2"])  # which draw the crops
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 6
    compact(tmp_path / "run" / "checkpoint.pt", tmp_path / "small.pt")
    small = load_checkpoint(tmp_path / "small.pt")
    assert small["heads_config"] == state["heads_config"]
    assert small["averaged"] == 6 and not {"optimiser", "heads_student", "alignments"} & set(small)
    wide = ["--data", str(pictures), "--out", str(tmp_path / "wide"), "--threads", "1", "--set", "model.latent_channels=16"]
    train.main([*wide, "--labels", *labelled, "--steps", "1", "--resume", str(tmp_path / "small.pt"), "--restart-clock"])
    assert load_checkpoint(tmp_path / "wide" / "checkpoint.pt")["heads"]["mean"].numel() == 16, "new heads"
    with pytest.raises(ValueError, match="was trained with heads"):
        train.main([*arguments, "--steps", "7"])
    another = ["--resume", str(tmp_path / "small.pt"), "--restart-clock"]
    with pytest.raises(ValueError, match="would be replaced"):
        train.main([*arguments, "--steps", "1", *another])
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 6
    train.main([*arguments, "--steps", "1", "--out", str(tmp_path / "new"), *another])
    assert "heads" not in load_checkpoint(tmp_path / "new" / "checkpoint.pt")


def test_weak_augmentation_distorts_nothing(labelled: list[str]) -> None:
    """Without strong views nobody learns from distorted colours, frozen or jointly."""
    data = separable(20, torch.Generator().manual_seed(0))._replace(strong=torch.full((20, 3, 6, 4, 4), torch.nan).half())
    rows, generator = torch.arange(20), torch.Generator().manual_seed(0)
    for kind in ("none", "weak"):
        config = SemiConfig(steps=3, pretrain_steps=2, augmentation=kind)
        heads = SemanticHeads(6, (TWO,), SMALL)
        heads.standardise(data.weak[:, 0])
        assert all(np.isfinite(pretrain(heads, [data], config)))
        _, history = train_heads(heads, [TaskData(TWO, data, rows, rows)], config)
        assert all(torch.isfinite(step.loss) for step in history)
    fixed = [data.pick("none", rows, generator)[0] for _ in range(2)]
    assert torch.equal(*fixed)
    batch = JointSampler([read_labels(Path(labelled[0]))], [], SemiConfig(augmentation="weak"), 1).next()
    assert torch.equal(batch.x_weak, batch.x_strong)


@pytest.mark.parametrize(
    "setting",
    [
        "train.xyb_share=0.5",
        "train.lr_hold=1",
        "semi.every=0",
        "semi.label_fraction=1.5",
        "train.batch=0",
        "train.ema_decay=1",
        "train.crop=200",
        "model.rate_anchors=1",
        "model.rate_anchors=17",
        "model.analysis_width=64",
        "semi.temperature=0",
    ],
)
def test_impossible_settings(setting: str) -> None:
    """Shares that leave less than nothing, and numbers out of their range, are named before anything is trained."""
    with pytest.raises(ValueError, match=setting.partition(".")[2].partition("=")[0]):
        train.configure([setting])


def test_hidden_labels_are_not_shown(labelled: list[str]) -> None:
    """With a label fraction, only so many pictures come with labels; the others serve as unlabelled."""
    sampler = JointSampler([read_labels(Path(labelled[0]))], [], SemiConfig(label_fraction=0.2), 1)
    assert len(sampler.labelled[0]) == 2
    assert len(sampler.others[0]) == 12
    batch = sampler.next()
    assert batch.x_labelled.shape == batch.x_weak.shape == batch.x_strong.shape == (4, 3, 192, 192)
    assert batch.labels.shape == (4,)


def in_two_processes(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What torchrun made of a script or module, which must end well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    said = f"{done.stderr[:3000]} … {done.stderr[-2000:]}"  # a process says why first, the launcher last
    assert done.returncode == 0, said
    return done


def test_two_processes_train_one_model(labelled: list[str], pictures: Path, tmp_path: Path) -> None:
    """torchrun with two gloo processes, the same command; one process resumes what two have begun."""
    arguments = [
        "--data",
        str(pictures),
        "--out",
        str(tmp_path / "run"),
        "--labels",
        *labelled,
        "--threads",
        "1",
        "--set",
        "semi.every=2",
    ]
    done = in_two_processes("-m", "training.train", *arguments, "--steps", "3", *SETTINGS)
    assert "2 x cpu" in done.stdout
    train.main([*arguments, "--steps", "5"])
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 5


def test_gradients_are_those_of_both(tmp_path: Path) -> None:
    """Data-parallel gradients are the mean over processes: two runs of one batch each agree after a step."""
    script = tmp_path / "agree.py"
    script.write_text(
        "import torch, torch.distributed as d\n"
        "from training.config import ModelConfig, SemiConfig, TrainConfig\n"
        "from training.joint import Objective\n"
        "from training.model import SemicodecModel\n"
        "d.init_process_group('gloo')\n"
        "torch.manual_seed(0)\n"
        "model = SemicodecModel(ModelConfig(latent_channels=8, hyper_channels=4, analysis_width=8, analysis_blocks=1,\n"
        "    synthesis_width=8, synthesis_blocks=1, synthesis_bypass=4, hyper_width=8, context_width=8, scale_width=8,\n"
        "    scale_context_width=4))\n"
        "config = TrainConfig(msssim_share=0, bf16=False)\n"
        "run = torch.nn.parallel.DistributedDataParallel(Objective(model, None, [], config, SemiConfig()))\n"
        "torch.manual_seed(d.get_rank())\n"
        "x = torch.rand(1, 3, 64, 64) - 0.5\n"
        "run(x, x, torch.rand(1), None, None).total.backward()\n"
        "total = sum(p.grad.double().sum() for p in model.parameters())\n"
        "both = [None, None]\n"
        "d.all_gather_object(both, total.item())\n"
        "assert both[0] == both[1], both\n"
        "print('agreed', flush=True)\n"
        "del run  # its reducer holds the group\n"
        "d.barrier()\n"
        "d.destroy_process_group()\n"
        "import os; os._exit(0)  # threads of the group may abort what an interpreter does at its end\n"
    )
    done = in_two_processes(str(script))
    assert done.stdout.count("agreed") == 2


def test_denoising_keeps_the_target_clean() -> None:
    """Only the share asked for gets noise; the target never does."""
    config = train.configure(["train.noise_share=0.5", "train.noise_sigma=0.1"])["train"]
    clean = torch.zeros(200, 3, 8, 8)
    noisy = train.add_noise(clean, config, torch.Generator().manual_seed(0))
    touched = (noisy != 0).flatten(1).any(1).float().mean()
    assert 0.4 < touched < 0.6
    assert clean.abs().max() == 0
    assert train.add_noise(clean, train.configure([])["train"], torch.Generator()) is clean


def test_a_foreign_checkpoint_is_named(tmp_path: Path, pictures: Path) -> None:
    """Garbage and checkpoints of another shape are one line with the file's name."""
    (tmp_path / "junk.pt").write_bytes(b"junk")
    arguments = ["--data", str(pictures), "--out", str(tmp_path / "run"), "--threads", "1", "--steps", "1", *SETTINGS]
    with pytest.raises(ValueError, match=r"junk\.pt is no checkpoint"):
        train.main([*arguments, "--resume", str(tmp_path / "junk.pt")])
    train.main(arguments)
    smaller = [*arguments, "--set", "model.latent_channels=8", "--resume", str(tmp_path / "run" / "checkpoint.pt")]
    with pytest.raises(ValueError, match="does not fit"):
        train.main([*smaller, "--restart-clock"])


# ---- heads of one's own ----------------------------------------------------------------------------------------


def test_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of labelled pictures becomes heads that ``analyze`` finds, and that know the classes."""
    coloured(tmp_path / "pets", 16)
    out = tmp_path / "heads"
    arguments = [
        str(tmp_path / "pets"),
        "--name",
        "pets",
        "--out",
        str(out),
        "--steps",
        "40",
        "--workers",
        "1",
    ]
    assert transfer.main(arguments) == 0
    assert "accuracy" in capsys.readouterr().out
    monkeypatch.setenv(bundle.PATH_VARIABLE, f"{TINY}:{out}")
    picture = photo(96, 112, 40) // 3
    picture[:, :, 0] += 120
    seen = sgc.analyze(sgc.encode(picture, 60), heads="pets")
    assert seen.best() is not None
    assert seen.labels[0].name == "red"
    with pytest.raises(SystemExit, match="1"):
        transfer.main([str(tmp_path / "nowhere"), "--name", "x", "--out", str(out)])
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        transfer.main([*arguments, "--init", str(tmp_path / "none.pt")])
    assert "none.pt is no checkpoint" in capsys.readouterr().err
    model = bundle.find_model()
    trunk = SemanticHeads(model.latent_channels, (TWO,), SMALL)  # as finish_heads --set heads.… makes them
    state = {"heads": trunk.state_dict(), "heads_config": dataclasses.asdict(SMALL), "model_id": model.model_id.hex()}
    save_checkpoint(tmp_path / "small.pt", {**state, "configs": "{}"})
    assert transfer.main([*arguments, "--steps", "1", "--init", str(tmp_path / "small.pt")]) == 0
    broken = sorted((tmp_path / "pets").rglob("*.png"))
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SystemExit, match="1"):
        transfer.main(arguments)
    assert "cannot read picture" in capsys.readouterr().err


def test_folders_of_splits(tmp_path: Path) -> None:
    """``train/CLASS`` and ``val/CLASS`` are splits, not classes; a class called train among others is one."""
    for split in ("train", "val"):
        coloured(tmp_path / "both" / split, 4)
    read = read_labels(tmp_path / "both", "both")
    assert read.classes == ("blue", "red")
    assert {item.picture.parent.parent.name for item in read.train} == {"train"}
    assert {item.picture.parent.parent.name for item in read.test} == {"val"}
    coloured(tmp_path / "trains", 4)
    (tmp_path / "trains" / "red").rename(tmp_path / "trains" / "train")
    assert read_labels(tmp_path / "trains").classes == ("blue", "train")


def test_finished_heads(labelled: list[str], tmp_path: Path) -> None:
    """All tasks in one bundle, with a checkpoint that transfer can start from and plots of whole test files."""
    rows = Path(labelled[1]).read_text() + "scene.png,mask.png,test\n"
    Path(labelled[1]).write_text(rows)
    arguments = [
        "--labels",
        *labelled,
        "--names",
        "colour,scene",
        "--foreground",
        "sea",
        "--out",
        str(tmp_path / "h" / "all"),
    ]
    arguments += ["--checkpoint", str(tmp_path / "h.pt"), "--plots", str(tmp_path / "plots"), "--workers", "1"]
    assert finish_heads.main([*arguments, "--set", "semi.steps=2", "--set", "semi.pretrain_steps=2"]) == 0
    content = json.loads((tmp_path / "h" / "all" / "heads.json").read_text())
    assert [(t["name"], t["foreground"]) for t in content["tasks"]] == [("colour", []), ("scene", ["sea"])]
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["scene-confusion.png", "scene-overlays.png"]
    fresh = SemanticHeads(16, (TWO,), HeadsConfig())
    model_id = sgc.find_model().model_id
    transfer.load_trunk(fresh, tmp_path / "h.pt", model_id)
    with pytest.raises(ValueError, match="its heads read model"):
        transfer.load_trunk(fresh, tmp_path / "h.pt", bytes(8))
    with pytest.raises(ValueError, match="another kind of checkpoint: it holds no model"):
        load_checkpoint(tmp_path / "h.pt")
    for wrong in (["--foreground", "nonesuch"], ["--names", "embedding,scene"], ["--names", "one"]):
        with pytest.raises(SystemExit, match="1"):
            finish_heads.main([*arguments, *wrong])


def test_exported_heads_agree_and_export_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX says what PyTorch says; a graph that does not is never written, and what was there stays."""
    tasks = (TWO, Task("map", SEGMENTATION, ("a", "b", "c")))
    heads = SemanticHeads(16, tasks, SMALL)
    folder = export_heads(heads, "h", b"\1" * 8, tmp_path / "h")
    before = (folder / "heads.json").read_bytes()
    monkeypatch.setattr("training.export_heads.HeadsGraph.forward", _different(heads))
    with pytest.raises(ExportError, match="heads"):
        export_heads(heads, "h", b"\2" * 8, tmp_path / "h")
    assert (folder / "heads.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h"]


def _different(heads: SemanticHeads):
    """A forward pass that exports one thing and computes another."""

    def forward(self, latents):
        output = heads(latents)
        bias = 0.0 if torch.onnx.is_in_onnx_export() else 0.5
        return output.logits["two"].softmax(1), output.logits["map"].argmax(1).to(torch.uint8), output.embedding + bias

    return forward


def test_plots_of_heads(tmp_path: Path) -> None:
    """Confusion matrix and overlays are written as PNG."""
    matrix = np.array([[9, 1], [3, 7]])
    path = plots.plot_confusion(matrix, ("cat", "dog"), tmp_path / "c.png", "pets")
    cells = np.indices((4, 6)).sum(0) % 2
    cells[0, 0] = IGNORE
    overlay = plots.plot_overlays([photo(64, 96)], [cells], [1 - cells.clip(0, 1)], ("sky", "sea"), tmp_path / "o.png")
    for file in (path, overlay):
        with Image.open(file) as image:
            assert min(image.size) > 100


def test_the_table_of_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every combination is measured and written."""
    folder = coloured(tmp_path / "two", 8)
    arguments = [
        "--labels",
        str(folder),
        "--json",
        str(tmp_path / "t.json"),
        "--seeds",
        "1",
        "--fractions",
        "0.5",
        "--workers",
        "1",
    ]
    settings = {"semi": {"steps": 2, "pretrain_steps": 2}, "heads": dataclasses.asdict(SMALL)}
    options = json.dumps({"attentive": {"heads": {"attention": True}}})
    semantics.main([*arguments, "--settings", json.dumps(settings), "--options", options])
    rows = json.loads((tmp_path / "t.json").read_text())
    assert {(r["input"], r["unlabelled"]) for r in rows if not r["option"]} == {
        (i, u) for i in ("latents", "pixels") for u in (False, True)
    }
    text = capsys.readouterr().out
    assert "| two | 50% | latents | with |" in text
    assert "| two | 10% | latents | with, attentive |" in text
    done = (tmp_path / "t.json").read_bytes()
    semantics.main([*arguments, "--settings", json.dumps(settings), "--options", options])  # nothing is left to do
    assert capsys.readouterr().out == text[text.index("| task") :]
    with pytest.raises(ValueError, match=r"t\.json holds scores of another model, other settings"):
        semantics.main([*arguments, "--settings", "{}", "--options", options])
    assert (tmp_path / "t.json").read_bytes() == done
