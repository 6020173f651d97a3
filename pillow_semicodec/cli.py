"""Command line: ``sgc`` or ``python -m pillow_semicodec``.

Exit code 0: all done; 1: at least one file failed, each with a line on standard error; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import importlib.util
import io
import json
import math
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps

from . import container, convert, options, other_formats
from ._version import __version__
from .convert import Job, Outcome, Settings, as_rgb, format_of, is_url, named, reason, recode
from .errors import BundleError, SemicodecError
from .files import opened, printable, sweep, walk, write_atomically, write_text

SGC = ".sgc"
LABELS_SHOWN = 5
MOST_WORKERS = 61 if sys.platform == "win32" else 2**16  # that Python's pools of processes take
CHUNK_TITLES = {
    container.PALETTE: "palette",
    container.OVERLAY: "overlay",
    container.NEUTRAL: "made grey",
    container.NUMBERS: "numbers",
    container.UNSEEN_KEPT: "colours under alpha 0",
    container.EXIF: "EXIF",
    container.ICC_PROFILE: "ICC profile",
    container.SEMANTICS: "semantics",
    container.REGIONS: "regions of interest",
    container.ANIMATION: "animation",
    container.PREVIEW: "preview",
    container.XMP: "XMP",
    container.COMMENT: "comment",
    container.RESOLUTION: "resolution",
    container.SHOWN_AS: "mode that is shown",
}
UNPACKED = {CHUNK_TITLES[kind] for kind in container.PACKABLE}


def main(arguments: list[str] | None = None) -> int:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, or a program without a terminal
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # file names may hold anything, and help has signs that few encodings have
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(arguments)
    threads = getattr(args, "threads", None)
    options.THREADS = options.threads_by_default() if threads is None else threads
    options.PROVIDERS = tuple(getattr(args, "provider", ()))
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        if _nobody_reads(error):  # as of other tools: quietly
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed when Python ends
            return 1
        _say(f"sgc: {reason(error)}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sgc: interrupted", file=sys.stderr)
        return 130


def _nobody_reads(error: Exception) -> bool:
    """Whether it says that the other end of the pipe was closed; Windows may call that EINVAL."""
    closed = os.name == "nt" and isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or closed


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"quality must be a number from 1 to 100, not {text}") from error
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"quality must be from 1 to 100, not {text}")
    return value


def _whole(least: int, most: float, text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text}") from error
    if not least <= value <= most:
        bounds = f"{least} or more" if most == math.inf else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"must be {bounds}, not {text}")
    return value


_number, _count = (partial(_whole, least, math.inf) for least in (0, 1))
_threads = partial(_whole, 0, options.MOST_THREADS)


class _Command(argparse.ArgumentParser):
    """Options may stand between the names that a command takes, too, as in most other programs, unless ``--`` is there."""

    within = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        # Older Pythons parse twice, and drop -- the first time: names behind it that begin with - would become options.
        if self.within or "--" in (args or ()):
            return super().parse_known_args(args, namespace)
        self.within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.within = False


def _parser() -> argparse.ArgumentParser:  # noqa: PLR0915
    parser = argparse.ArgumentParser(prog="sgc", description="The learned image format .sgc.")
    parser.add_argument("--version", action="version", version=f"pillow-semicodec {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)

    strip = "leave out EXIF (but for how pictures are turned), XMP and comments: who took them, when and where"
    coding = _Command(add_help=False)
    coding.add_argument("-q", "--quality", type=_quality, help="1 to 100, as with JPEG; default 75")
    coding.add_argument("--target-size", type=_count, metavar="BYTES", help="instead of a quality: at most so many bytes")
    coding.add_argument("--target-bpp", type=float, metavar="BITS", help="or bits per pixel")
    coding.add_argument("--target-psnr", type=float, metavar="DB", help="or a PSNR of at least so much")
    coding.add_argument(
        "--effort", type=int, choices=range(1, 10), help="1, the default, to 9: better at the same bytes, but much slower"
    )
    coding.add_argument("--model", help="name or id of an installed model")
    coding.add_argument("--semantics", action="store_true", help="store what the pictures show, for readers without a model")
    coding.add_argument("--heads", action="append", default=[], help="store what these heads see; can be repeated")
    coding.add_argument("--roi", choices=["auto"], help="give what the model sees in the foreground more of the bits")
    coding.add_argument("--overwrite", action="store_true", help="replace results that exist")
    coding.add_argument(
        "--alpha-quality", type=partial(_whole, 0, 100), help="0 to 100; 100, the default, keeps alpha exactly"
    )
    coding.add_argument("--exact", action="store_true", default=None, help="keep colours that nobody sees, too")
    coding.add_argument("--preview", action=argparse.BooleanOptionalAction, help="store a small version, too")
    coding.add_argument("--indexed", action=argparse.BooleanOptionalAction, help="a palette: for screens, text and drawings")
    coding.add_argument("--flatten", action="store_true", help="put transparent pictures on white")
    coding.add_argument("--strip", action="store_true", help=strip)
    threads = _Command(add_help=False)
    default = f"CPU threads, of every process; 0, the default ({options.THREADS_VARIABLE}), shares out the cores"
    threads.add_argument("--threads", type=_threads, help=default)
    threads.add_argument(
        "--provider", action="append", default=[], help="ONNX Runtime execution provider, like CUDAExecutionProvider"
    )

    encode = commands.add_parser("encode", parents=[coding, threads], help="any picture that Pillow reads → .sgc")
    encode.add_argument("source", type=Path, help="one picture; convert takes many, and folders")
    encode.add_argument("target", type=Path, nargs="?", help="file or folder; default: the source's name with .sgc")
    encode.set_defaults(run=_encode)

    decode = commands.add_parser("decode", parents=[threads], help=".sgc → any format that Pillow writes")
    decode.add_argument("source", type=Path, help="file that ends in .sgc")
    decode.add_argument("target", type=Path, nargs="?", help="file or folder; default: the source's name with .png")
    decode.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    decode.add_argument("--flatten", action="store_true", help="put a transparent picture on white")
    decode.add_argument("--strip", action="store_true", help=strip)
    decode.set_defaults(run=_decode)

    seeing = _Command(add_help=False)
    seeing.add_argument("--heads", action="append", default=[], help="name of installed heads; may be given several times")

    info = commands.add_parser("info", parents=[seeing, threads], help="what a file holds; runs no network by itself")
    info.add_argument("sources", type=Path, nargs="+")
    info.add_argument("--semantics", action="store_true", help="also say what the picture shows")
    info.add_argument("--json", action="store_true", help="all of it as JSON, a line a file")
    info.set_defaults(run=_info)

    search = commands.add_parser("search", parents=[seeing, threads], help="find .sgc files by what they show")
    search.add_argument("folder", type=Path)
    wanted = search.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--like", type=Path, metavar="PICTURE", help="pictures that look like this one")
    wanted.add_argument("--label", metavar="NAME", help="pictures that show this class")
    search.add_argument("-n", "--count", type=_count, default=10, help="results to print; default 10")
    search.set_defaults(run=_search)

    _add_convert(commands, [coding, threads])

    _add_bench(commands, threads)

    autoload = commands.add_parser("autoload", help="let every program here that imports Pillow know the format, or not")
    autoload.add_argument("switch", choices=["on", "off"], nargs="?", help="default: say whether it is on")
    autoload.set_defaults(run=_autoload)

    demo = commands.add_parser("demo", parents=[threads], help="compare with JPEG, WebP and AVIF at the same bytes")
    demo.add_argument("picture", type=Path, nargs="?", help="default: a bundled photograph")
    demo.add_argument("-q", "--quality", type=_quality, default=40)
    demo.add_argument("-o", "--output", type=Path, default=Path("sgc-demo.png"), help="side-by-side PNG")
    demo.set_defaults(run=_demo)
    return parser


def _add_convert(commands: Any, parents: list[_Command]) -> None:
    convert = commands.add_parser("convert", parents=parents, help="files and folders, to .sgc or from it")
    convert.add_argument("sources", nargs="+", help="files, folders, globs, .zip and .tar archives, or URLs (with fsspec)")
    convert.add_argument("-o", "--output", help="folder or URL for the results; default: beside each source")
    convert.add_argument("--to", default="sgc", help="extension of the results: sgc (default), png, jpg, webp, …")
    convert.add_argument(
        "--keep-extension", action="store_true", help="call the result of a.jpg a.jpg.sgc, for there may be an a.png, too"
    )
    convert.add_argument("--workers", type=_number, default=0, help="processes; 0, the default, takes one per core")
    convert.add_argument(
        "--dask", nargs="?", const="", metavar="ADDRESS", help="on a Dask cluster; without ADDRESS, one here"
    )
    convert.add_argument("--dry-run", action="store_true", help="say what would be done")
    convert.add_argument("--measure", action="store_true", help="decode every result: mean PSNR and SSIMULACRA2")
    convert.add_argument(
        "--report", type=Path, metavar="JSON", help="write bytes and errors of every file, and with --measure its quality"
    )
    convert.set_defaults(run=_convert)


def _add_bench(commands: Any, threads: _Command) -> None:
    bench = commands.add_parser(
        "bench", parents=[threads], help="compare with every codec that is installed, on any pictures"
    )
    bench.add_argument("sources", nargs="+", type=Path, help="pictures, or folders of them")
    bench.add_argument(
        "-o", "--output", type=Path, default=Path("sgc-bench"), help="folder of report.html, results.json and results.csv"
    )
    bench.add_argument("--codecs", help="comma-separated; default: all that are installed")
    bench.add_argument("--model", help="name or id of an installed model")
    bench.add_argument("-q", "--quality", type=_quality, default=50, help="of SGC in crops and costs; default 50")
    bench.add_argument("--limit", type=_count, help="only so many pictures")
    bench.add_argument("--workers", type=_number, default=0, help="processes for the curves; 0 takes one per core")
    bench.add_argument("--cache", type=Path, metavar="JSON", help="keep the figures of the other codecs here")
    bench.add_argument("--crops", type=_number, default=3, help="pictures to show side by side; default 3")
    bench.add_argument("--timed", type=_number, default=3, help="pictures to time; 0 leaves time and memory out")
    bench.add_argument(
        "--growth",
        type=float,
        default=0,
        metavar="MP",
        help="follow time and memory up to so many megapixels; 0: not at all",
    )
    bench.add_argument("--files", type=_count, default=100, help="with --growth: convert up to so many files")
    bench.set_defaults(run=_bench)


# ---- one file --------------------------------------------------------------------------------------------------


def _recode(source: Path, target: Path, settings: Settings) -> int:
    """Read one picture, write another; returns the bytes written."""
    if target.exists() and target.samefile(source):
        raise ValueError(f"{source}: source and target are the same file")
    if target.exists() and not settings.overwrite:
        raise ValueError(f"{target} exists; --overwrite replaces it")
    format_of(str(target))  # before anything is read: an unknown extension must not cost a decode
    sweep([target.parent])
    with _naming(source):
        return write_atomically(target, partial(recode, source, str(target), settings), replace=settings.overwrite)


@contextlib.contextmanager
def _naming(source: Path) -> Iterator[None]:
    """Whatever is wrong, for Pillow's readers raise what a broken file makes them, is told as of ``source``."""
    try:
        yield
    except FileNotFoundError:
        raise  # says which file
    except Exception as error:
        raise ValueError(named(source, reason(error))) from error


def _check_is_no_folder(source: Path, instead: str) -> None:
    if source.is_dir():
        raise ValueError(f"{source} is a folder; {instead} takes folders")


def _settings(args: argparse.Namespace, save: dict[str, Any], measure: bool = False) -> Settings:
    return Settings(save, args.flatten, args.strip, measure, args.overwrite)


def _save_keywords(args: argparse.Namespace) -> dict[str, Any]:
    chosen = {"model": args.model, "semantics": tuple(args.heads) or args.semantics, "roi": args.roi}
    names = ("quality", "effort", "alpha_quality", "exact", "preview", "indexed", *options.TARGETS)
    return chosen | {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _target(args: argparse.Namespace, suffix: str) -> Path:
    """A file: that which was named, or one named after the source, beside it or in the folder that was named."""
    beside: Path = args.source.with_suffix(suffix)
    if args.target is None:
        return beside
    target: Path = args.target
    return target / beside.name if target.is_dir() else target


def _encode(args: argparse.Namespace) -> int:
    _check_is_no_folder(args.source, "sgc convert")
    target = _target(args, SGC)
    if target.suffix.lower() != SGC:
        raise ValueError(
            f"{target}: the target of encode ends in {SGC}; sgc convert takes several pictures, and --to for other formats"
        )
    size = _recode(args.source, target, _settings(args, _save_keywords(args)))
    before = args.source.stat().st_size  # of a pipe, 0
    _say(f"{target}: {size} bytes" + (f", {100 * size / before:.1f} % of {args.source}" if before else ""))
    return 0


def _decode(args: argparse.Namespace) -> int:
    _check_is_no_folder(args.source, "sgc convert --to png")
    if args.source.is_file():  # of a pipe nothing may be read twice
        with opened(args.source) as file:
            container.read_prologue(file.read, options.LIMITS)
    target = _target(args, ".png")
    size = _recode(args.source, target, _settings(args, {}))
    _say(f"{target}: {size} bytes")
    return 0


def _info(args: argparse.Namespace) -> int:
    failures = 0
    for source in args.sources:
        try:
            held = source if source.is_file() else source.read_bytes()  # a pipe is read but once
            facts, seeing = _facts(held), bool(args.semantics or args.heads)
            if args.json:
                seen = _seen(held, tuple(args.heads)) if seeing else {}
                print(json.dumps({"file": str(source), **facts, **seen}))
                continue
            _print_facts(source, facts)
            if seeing:
                _print_semantics(held, tuple(args.heads))
        except (OSError, SemicodecError) as error:
            if _nobody_reads(error):
                raise
            failures += 1
            _say(f"sgc: {named(source, reason(error))}", sys.stderr)
    return 1 if failures else 0


def _facts(held: Path | bytes) -> dict[str, Any]:
    """What a file holds; its checksums are good, or a FormatError says so. None stands for what it has not."""
    from .animation import read_parts
    from .bundle import list_models
    from .indexed import read_palette

    with opened(held) as file:
        prologue = container.read_prologue(file.read, options.LIMITS)
        head = file.tell()
        container.read_slices(file.read, prologue.index)
        total = file.tell() - head
        frames = prologue.animation.frames if prologue.animation else ()
        for frame in frames:
            if frame.size:
                data = container.read_exactly(file.read, frame.size, "a frame")
                for _ in read_parts(data, frame, prologue, options.LIMITS):  # one at a time
                    pass
        end = file.tell()
    header, side = prologue.header, prologue.index.side
    model_id = model_name = rate = quality = None
    if not (header.bilevel or header.indexed):
        model_id, rate = header.model_id.hex(), prologue.index.rate
        model = {one.model_id: one for one in list_models()}.get(header.model_id)
        if model:
            model_name = model.name
            with contextlib.suppress(BundleError):  # that a model is damaged says nothing of the file
                quality = float(f"{model.rate_bank.quality_of_rate(rate):.3g}")
    return {
        "width": header.width,
        "height": header.height,
        "mode": prologue.mode,
        "shown_as": prologue.shown_as,
        "bytes": end,
        "bits_per_pixel": 8 * end / (header.width * header.height * max(1, len(frames))),
        "colours": len(read_palette(prologue.metadata[container.PALETTE], header.grey)) if header.indexed else None,
        "model": model_id,
        "model_name": model_name,
        "quality": quality,
        "rate": rate,
        "head_bytes": head,
        "slices": container.slice_count(header.width, header.height, side),
        "slice_side": side or None,
        "slice_bytes": total,
        "metadata": {
            CHUNK_TITLES.get(kind, f"chunk {kind.decode()}"): len(payload) for kind, payload in prologue.metadata.items()
        },
        "frames": len(frames) or None,
        "seconds": sum(frame.duration for frame in frames) / 1000 if frames else None,
        "frame_bytes": sum(frame.size for frame in frames) if frames else None,
    }


def _print_facts(source: Path, facts: dict[str, Any]) -> None:
    shown = f" ({facts['shown_as']} through Pillow)" if facts["shown_as"] != facts["mode"] else ""
    size = f"{facts['bytes']} bytes, {facts['bits_per_pixel']:.3f} bits per pixel"
    _say(f"{source}: {facts['width']}x{facts['height']} {facts['mode']}{shown}, {size}")
    if facts["model"]:
        quality = f", quality {facts['quality']:g}" if facts["quality"] else ""
        print(f"  model {facts['model']} ({facts['model_name'] or 'not installed'}){quality}, rate {facts['rate']}")
    elif facts["colours"]:
        print(f"  indexed, without a model: {facts['colours']} colour{'s' * (facts['colours'] > 1)}")
    else:
        print("  lossless, without a model")
    parts = f"{facts['slices']} slices of {facts['slice_side']} pixels" if facts["slice_side"] else "one slice"
    print(f"  header, index and metadata {facts['head_bytes']} bytes; {parts}, {facts['slice_bytes']} bytes")
    for title, count in facts["metadata"].items():
        print(f"  {title}: {count} bytes{' unpacked' if title in UNPACKED else ''}")
    if facts["frames"]:
        further = f"those after the first: {facts['frame_bytes']} bytes"
        print(f"  {facts['frames']} frames, {facts['seconds']:g} s; {further}")
    print("  checksums: good")


def _seen(held: Path | bytes, heads: tuple[str, ...]) -> dict[str, Any]:
    from .analysis import analyze

    seen = dataclasses.asdict(analyze(held, heads=heads, threads=options.THREADS, limits=options.LIMITS))
    for segments in seen["maps"]:
        width, cells = segments["width"], list(segments["cells"])
        segments["cells"] = [cells[k : k + width] for k in range(0, len(cells), width)]
    return seen


def _say(text: str, stream: IO[str] | None = None) -> None:
    """A line, on standard output by default."""
    print(printable(text), file=stream)


def _print_semantics(held: Path | bytes, heads: tuple[str, ...]) -> None:
    from .analysis import analyze

    seen = analyze(held, heads=heads, threads=options.THREADS, limits=options.LIMITS)
    for task in dict.fromkeys(label.task for label in seen.labels):
        best = [f"{x.name} {100 * x.probability:.0f} %" for x in seen.labels if x.task == task][:LABELS_SHOWN]
        _say(f"  {task}: {', '.join(best)}")
    for segments in seen.maps:
        parts = [f"{name} {100 * share:.0f} %" for name, share in segments.shares().items()][:LABELS_SHOWN]
        _say(f"  {segments.task}, of the area: {', '.join(parts)}")
    if seen.embedding:
        _say(f"  embedding of {len(seen.embedding)} components, by heads {', '.join(seen.heads)}")


def _search(args: argparse.Namespace) -> int:
    from .search import likeness, search

    if not args.folder.exists():
        raise ValueError(f"no folder {args.folder}")
    heads, failures, names = tuple(args.heads), list[str](), set[str]()
    if args.like:
        with _naming(args.like):
            like = likeness(args.like, heads)
        found = search(args.folder, like, heads, failures, names)
    else:
        found = search(args.folder, lambda seen, _: seen.probability(args.label), heads, failures, names)
    ranked = sorted(found, key=lambda hit: (-hit[0], hit[1]))
    for failure in failures:
        _say(f"sgc: {failure}", sys.stderr)
    if not ranked and not failures:
        raise ValueError(f"no {SGC} files in {args.folder}")
    if args.label is not None:
        ranked = [hit for hit in ranked if hit[0] > 0]
        if names and not ranked:
            raise ValueError(f"no file shows the label {args.label!r}; the heads know {', '.join(sorted(names))}")
    for score, path in ranked[: args.count]:
        _say(f"{score:.3f}  {path}")
    return 1 if failures or not ranked else 0


# ---- many files ------------------------------------------------------------------------------------------------


def _readable_extensions() -> frozenset[str]:
    """Of the formats that Pillow decodes; it knows some others by name only."""
    other_formats.register_all()
    known_by_name = ("BUFR", "GRIB", "HDF5", "MPEG")
    return frozenset(e for e, f in Image.registered_extensions().items() if f in Image.OPEN and f not in known_by_name)


def _convert(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    if args.measure and importlib.util.find_spec("ssimulacra2") is None:
        raise ValueError('measuring needs: pip install "pillow-semicodec[metrics]"')
    output = args.output and convert.without_scheme(args.output)
    _check_places(output, args.report)
    suffix = "." + args.to.lower().lstrip(".")
    format_of(f"--to {suffix}")
    given = {name for name, value in _save_keywords(args).items() if value is not None and value is not False}
    if suffix != SGC and (unused := [f"--{name.replace('_', '-')}" for name in sorted(given - {"quality"})]):
        raise ValueError(f"{', '.join(unused)}: for {SGC}, not for {suffix}")
    extensions = _readable_extensions() - {SGC} if suffix == SGC else frozenset({SGC})
    failures: list[Outcome] = []
    jobs, skipped = convert.plan(args.sources, output, suffix, extensions, args.overwrite, failures, args.keep_extension)
    if not (jobs or skipped or failures):
        what = f"no pictures (--to png converts {SGC} files back)" if suffix == SGC else f"no {SGC} files"
        _say(f"sgc: {', '.join(args.sources)}: {what}", sys.stderr)
    if args.dry_run:
        for job in jobs:
            _say(f"{job.source} → {job.target}")
        print(f"{len(jobs)} to convert, {len(skipped)} exist already, {len(failures)} cannot be")
        _tell(failures)
        return 1 if failures or not (jobs or skipped) else 0
    convert.sweep_targets(jobs + skipped)
    settings = _settings(args, _save_keywords(args), measure=args.measure)
    workers = min(args.workers or options.cores(), max(1, len(jobs)), MOST_WORKERS)
    threads = options.THREADS or max(1, options.cores() // workers)
    if args.dask is not None:
        run = convert.run_dask(jobs, settings, args.dask, workers, threads)
    elif workers == 1 or not convert.has_processes():
        run = (convert.convert(job, settings) for job in jobs)
    else:
        run = convert.run_pool(jobs, settings, workers, threads)
    outcomes = failures
    try:
        with contextlib.closing(run):  # before it is told: an interrupted run does no more
            for outcome in tqdm(run, total=len(jobs), unit="file", disable=None):
                outcomes.append(outcome)
    finally:  # what it has done is told; first where nobody can stop listening
        try:
            if args.report:
                _write_report(args.report, outcomes, jobs + skipped)
        finally:
            print(convert.summary(outcomes, len(skipped)))
            _tell(outcomes)
    return 1 if any(o.error for o in outcomes) or not (jobs or skipped) else 0


def _check_places(output: str | None, report: Path | None) -> None:
    """Before any work: results go into a folder; the report's place is there, or will be, and it is no picture that was
    meant to be a source.
    """
    if output and not is_url(output) and Path(output).is_file():
        raise ValueError(f"{output} is a file; the results go into a folder")
    if not report:
        return
    held = b"{"
    if report.is_file():
        with report.open("rb") as file:
            held = file.read(1) or held
    if report.suffix.lower() in Image.registered_extensions() or held != b"{":
        raise ValueError(f"the report is JSON, and does not replace other files: {report}")
    place = report.absolute().parent
    if report.is_dir() or not place.is_dir():
        if output is not None and not is_url(output) and place.is_relative_to(Path(output).absolute()):
            return  # among the results, whose folder is made on the way
        raise ValueError(f"the report cannot be written: {report} is a folder, or lies in none")


def _tell(outcomes: list[Outcome]) -> None:
    """What failed, and why, on standard error."""
    for outcome in outcomes:
        if outcome.error:
            _say(f"sgc: {named(outcome.job.source, outcome.error)}", sys.stderr)


def _write_report(path: Path, outcomes: list[Outcome], planned: list[Job]) -> None:
    before = ""
    if path.is_file():  # a pipe would have us wait for ourselves
        before = path.read_text("utf-8", "replace")
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_text(path, convert.report(outcomes, planned, before))


def _bench(args: argparse.Namespace) -> int:
    try:
        import bjontegaard  # noqa: F401
        import matplotlib  # noqa: F401
        import ssimulacra2  # noqa: F401
        from tqdm import tqdm
    except ImportError as error:
        raise ValueError(f'the benchmark needs {error.name}: pip install "pillow-semicodec[bench]"') from error
    from .bench import codecs, curves, report
    from .bench.run import Plan, run

    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"{args.output} is a file; the results go into a folder")
    chosen = codecs.present(args.codecs.split(",") if args.codecs else None)
    unlisted: list[OSError] = []
    paths = [path for path, _ in walk(args.sources, _readable_extensions() - {SGC}, unlisted.append)][: args.limit]
    if not paths:
        raise unlisted[0] if unlisted else ValueError(f"no pictures in {', '.join(map(str, args.sources))}")
    twice = sorted({p.name for p in paths if sum(q.name == p.name for q in paths) > 1})
    if twice:
        raise ValueError(f"pictures are told apart by their names; there is more than one {', '.join(twice[:5])}")
    workers = min(args.workers or options.cores(), MOST_WORKERS)
    costs = (args.crops, args.timed, args.growth, args.files)
    for folder in (args.output, *((args.cache.parent,) if args.cache else ())):  # now, not when all is measured
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise ValueError(f"{folder}: nothing can be written there")
    plan = Plan(round(args.quality), args.model, workers, args.cache, *costs)
    results = run(paths, chosen, plan, partial(tqdm, mininterval=5, disable=None))
    crops = results.pop("crops")
    results["failures"] += [reason(error) for error in unlisted]
    report.write(args.output, results, crops)
    print(curves.tables(results["curves"], results["bd_rate"]))
    for line in (*results["failures"], *(f"not rising: {line}" for line in results["not_rising"])):
        _say(f"sgc: {line}", sys.stderr)
    print(f"\n{args.output / 'report.html'}")
    return 1 if results["failures"] else 0


def _autoload(args: argparse.Namespace) -> int:
    from . import autoload

    if args.switch is None:
        print("on" if autoload.is_on() else "off")
    elif args.switch == "on":
        print(f"{autoload.switch_on()}: Pillow knows {SGC} from now on, without an import")
    else:
        was_on = autoload.switch_off()
        print(f"Pillow knows {SGC} only where pillow_semicodec is imported" + ("" if was_on else ", as before"))
    return 0


def _demo(args: argparse.Namespace) -> int:
    from .demo import compare

    if not all(importlib.util.find_spec(name) for name in ("scipy", "ssimulacra2")):
        raise ValueError('the demo measures quality, which needs: pip install "pillow-semicodec[metrics]"')
    if args.picture:
        other_formats.register_all()
        with _naming(args.picture), Image.open(args.picture) as image:
            picture = as_rgb(ImageOps.exif_transpose(image))
    else:
        with Image.open(Path(__file__).parent / "demo.png") as image:
            picture = image.convert("RGB")
    if args.output.suffix.lower() != ".png":
        raise ValueError(f"{args.output}: the pictures side by side are a PNG")
    if args.picture and args.output.exists() and args.output.samefile(args.picture):
        raise ValueError(f"{args.picture}: source and target are the same file")
    print(compare(picture, args.quality, args.output))
    return 0
