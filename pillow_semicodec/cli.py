"""Command line: ``sgc`` or ``python -m pillow_semicodec``.

Exit code 0: all done; 1: at least one file failed, each with a line on standard error; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import sys
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps

from . import container, options
from ._version import __version__
from .errors import SemicodecError
from .files import walk, write_atomically

SGC = ".sgc"
LABELS_SHOWN = 5
CHUNK_TITLES = {
    container.EXIF: "EXIF",
    container.ICC_PROFILE: "ICC profile",
    container.SEMANTICS: "semantics",
    container.REGIONS: "regions of interest",
}


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    options.THREADS = getattr(args, "threads", 0)
    for stream in (sys.stdout, sys.stderr):  # file names may hold anything
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(args.run(args))
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        print(f"sgc: {_reason(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sgc: interrupted", file=sys.stderr)
        return 130


def _quality(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"quality must be from 1 to 100, not {text}")
    return value


def _threads(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("threads must be 0 (one per core) or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("a count must be 1 or more")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sgc", description="The learned image format .sgc.")
    parser.add_argument("--version", action="version", version=f"pillow-semicodec {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    coding = argparse.ArgumentParser(add_help=False)
    coding.add_argument("-q", "--quality", type=_quality, default=75, help="1 to 100, as with JPEG; default 75")
    coding.add_argument("--model", help="name or id of an installed model")
    coding.add_argument("--semantics", action="store_true", help="store what the pictures show, for readers without a model")
    coding.add_argument("--roi", choices=["auto"], help="give what the model sees in the foreground more of the bits")
    coding.add_argument("--overwrite", action="store_true", help="replace results that exist")
    coding.add_argument("--flatten", action="store_true", help="put transparent pictures on white instead of refusing them")
    threads = argparse.ArgumentParser(add_help=False)
    threads.add_argument("--threads", type=_threads, default=0, help="CPU threads; 0, the default, takes one per core")

    encode = commands.add_parser("encode", parents=[coding, threads], help="any picture that Pillow reads → .sgc")
    encode.add_argument("source", type=Path)
    encode.add_argument("target", type=Path, nargs="?", help="default: the source's name with .sgc")
    encode.set_defaults(run=_encode)

    decode = commands.add_parser("decode", parents=[threads], help=".sgc → any format that Pillow writes")
    decode.add_argument("source", type=Path)
    decode.add_argument("target", type=Path, nargs="?", help="default: the source's name with .png")
    decode.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    decode.set_defaults(run=_decode)

    seeing = argparse.ArgumentParser(add_help=False)
    seeing.add_argument("--heads", action="append", default=[], help="name of installed heads; may be given several times")

    info = commands.add_parser("info", parents=[seeing, threads], help="what a file holds; runs no network by itself")
    info.add_argument("sources", type=Path, nargs="+")
    info.add_argument("--semantics", action="store_true", help="also say what the picture shows")
    info.set_defaults(run=_info)

    search = commands.add_parser("search", parents=[seeing, threads], help="find .sgc files by what they show")
    search.add_argument("folder", type=Path)
    wanted = search.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--like", type=Path, metavar="PICTURE", help="pictures that look like this one")
    wanted.add_argument("--label", metavar="NAME", help="pictures that show this class")
    search.add_argument("-n", "--count", type=_count, default=10, help="results to print; default 10")
    search.set_defaults(run=_search)

    convert = commands.add_parser("convert", parents=[coding, threads], help="files and folders, to .sgc or from it")
    convert.add_argument("sources", type=Path, nargs="+", help="files, or folders that are searched through")
    convert.add_argument("-o", "--output", type=Path, help="folder for the results; default: beside each source")
    convert.add_argument("--to", default="sgc", help="extension of the results: sgc (default), png, jpg, webp, …")
    convert.set_defaults(run=_convert)

    demo = commands.add_parser("demo", parents=[threads], help="compare with JPEG, WebP and AVIF at the same bytes")
    demo.add_argument("picture", type=Path, nargs="?", help="default: a bundled photograph")
    demo.add_argument("-q", "--quality", type=_quality, default=40)
    demo.add_argument("-o", "--output", type=Path, default=Path("sgc-demo.png"), help="side-by-side PNG")
    demo.set_defaults(run=_demo)
    return parser


# ---- one file --------------------------------------------------------------------------------------------------


def _recode(source: Path, target: Path, settings: dict[str, Any], *, flatten: bool = False, overwrite: bool = True) -> int:
    """Read one picture, write another, keep EXIF and ICC profile; returns the bytes written.

    Args:
        settings: save keywords for SGC; other formats are saved with their defaults.
    """
    if target.exists() and target.samefile(source):
        raise ValueError(f"{source}: source and target are the same file")
    if target.exists() and not overwrite:
        raise ValueError(f"{target} exists; --overwrite replaces it")
    # Formats are looked up before anything is read: an unknown extension must not cost a decode.
    name = Image.registered_extensions().get(target.suffix.lower())
    if name is None or name not in Image.SAVE:
        raise ValueError(f"{target}: no format that can be written has the extension {target.suffix!r}")
    with Image.open(source) as image:
        frames = getattr(image, "n_frames", 1)
        if name == "SGC" and frames > 1 and image.format != "MPO":  # a phone's second frame is a by-product
            raise ValueError(f"{source}: it has {frames} frames; this version stores one")
        image.load()  # some formats hold their EXIF behind the pixels
        exif = image.info.get("exif") or (image.getexif().tobytes() if image.getexif() and image.format != "TIFF" else None)
        picture: Image.Image = image
        if name == "SGC" and flatten and image.has_transparency_data:
            picture = Image.new("RGBA", image.size, "white")
            picture = Image.alpha_composite(picture, image.convert("RGBA")).convert("RGB")
            picture.info = dict(image.info)
            picture.info.pop("transparency", None)
        if name != "SGC":
            settings = {"icc_profile": image.info["icc_profile"]} if image.info.get("icc_profile") else {}
        if exif:
            settings = {**settings, "exif": exif}

        def write(file: IO[bytes]) -> None:
            picture.save(file, name, **settings)

        return write_atomically(target, write)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {"quality": args.quality, "model": args.model, "semantics": args.semantics, "roi": args.roi}


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _encode(args: argparse.Namespace) -> int:
    target = args.target or args.source.with_suffix(SGC)
    if target.suffix.lower() != SGC:
        raise ValueError(f"{target}: the target of encode ends in {SGC}; use convert --to for other formats")
    size = _recode(args.source, target, _settings(args), flatten=args.flatten, overwrite=args.overwrite)
    print(f"{target}: {size} bytes, {100 * size / args.source.stat().st_size:.1f} % of {args.source}")
    return 0


def _decode(args: argparse.Namespace) -> int:
    target = args.target or args.source.with_suffix(".png")
    size = _recode(args.source, target, {}, overwrite=args.overwrite)
    print(f"{target}: {size} bytes")
    return 0


def _info(args: argparse.Namespace) -> int:
    failures = 0
    for source in args.sources:
        try:
            _describe(source)
            if args.semantics or args.heads:
                _print_semantics(source, tuple(args.heads))
        except (OSError, SemicodecError) as error:
            failures += 1
            print(f"sgc: {source}: {_reason(error)}", file=sys.stderr)
    return 1 if failures else 0


def _describe(source: Path) -> None:
    from .bundle import list_models

    with source.open("rb") as file:
        prologue = container.read_prologue(file.read, options.LIMITS)
        head = file.tell()
        slices = container.read_slices(file.read, prologue.index, options.LIMITS)
        end = file.tell()
    header = prologue.header
    names = {model.model_id: model.name for model in list_models()}
    pixels = header.width * header.height
    print(f"{source}: {header.width}x{header.height} {header.mode}, {end} bytes, {8 * end / pixels:.3f} bits per pixel")
    print(f"  model {header.model_id.hex()} ({names.get(header.model_id, 'not installed')}), rate {prologue.index.rate}")
    print(
        f"  header, index and metadata {head} bytes; {len(slices)} slice of {', '.join(str(len(s)) for s in slices)} bytes"
    )
    for kind, payload in prologue.metadata.items():
        title = CHUNK_TITLES.get(kind, f"chunk {kind.decode()}")
        print(f"  {title}: {len(payload)} bytes")
    print("  checksums: good")


def _print_semantics(source: Path, heads: tuple[str, ...]) -> None:
    from .analysis import analyze

    seen = analyze(source, heads=heads, threads=options.THREADS, limits=options.LIMITS)
    for task in dict.fromkeys(label.task for label in seen.labels):
        best = [f"{x.name} {100 * x.probability:.0f} %" for x in seen.labels if x.task == task][:LABELS_SHOWN]
        print(f"  {task}: {', '.join(best)}")
    for segments in seen.maps:
        parts = [f"{name} {100 * share:.0f} %" for name, share in segments.shares().items()][:LABELS_SHOWN]
        print(f"  {segments.task}, of the area: {', '.join(parts)}")
    if seen.embedding:
        print(f"  embedding of {len(seen.embedding)} components, by heads {', '.join(seen.heads)}")


def _search(args: argparse.Namespace) -> int:
    from .search import search, semantics_of

    if not args.folder.exists():
        raise ValueError(f"no folder {args.folder}")
    heads, failures = tuple(args.heads), list[str]()
    if args.like:
        wanted = semantics_of(args.like, heads)
        if not wanted.embedding:
            raise ValueError(f"the heads {', '.join(wanted.heads)} make no embedding to compare")
        found = search(args.folder, wanted.similarity, heads, failures)
    else:
        found = search(args.folder, lambda seen: seen.probability(args.label), heads, failures)
    ranked = sorted(found, key=lambda hit: (-hit[0], hit[1]))
    if args.label:
        names = sorted({name for _, _, seen in ranked for name in seen.names()})
        ranked = [hit for hit in ranked if hit[0] > 0]
        if names and not ranked:
            raise ValueError(f"no file shows the label {args.label!r}; the heads know {', '.join(names)}")
    for score, path, _ in ranked[: args.count]:
        print(f"{score:.3f}  {path}")
    for failure in failures:
        print(f"sgc: {' '.join(failure.split())}", file=sys.stderr)
    return 1 if failures or not ranked else 0


# ---- many files ------------------------------------------------------------------------------------------------


def _readable_extensions() -> frozenset[str]:
    """Of the formats that Pillow decodes; it knows some others by name only."""
    known_by_name = ("BUFR", "GRIB", "HDF5", "MPEG")
    return frozenset(e for e, f in Image.registered_extensions().items() if f in Image.OPEN and f not in known_by_name)


def _convert(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    suffix = "." + args.to.lower().lstrip(".")
    extensions = _readable_extensions() - {SGC} if suffix == SGC else frozenset({SGC})
    jobs, failures, before, after, skipped = list(walk(args.sources, extensions)), [], 0, 0, 0
    taken: dict[Path, Path] = {}
    for source, relative in tqdm(jobs, unit="file", disable=None):
        target = (args.output / relative if args.output else source).with_suffix(suffix)
        try:
            if target in taken:
                raise ValueError(f"its result {target} is that of {taken[target]} too")
            taken[target] = source
            if target.exists() and not args.overwrite:
                skipped += 1
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            written = _recode(source, target, _settings(args), flatten=args.flatten)
            before, after = before + source.stat().st_size, after + written
        except Exception as error:  # one broken file must not end the rest
            failures.append(f"{source}: {_reason(error)}")
    done = len(jobs) - skipped - len(failures)
    share = f", {before} → {after} bytes ({100 * after / before:.1f} %)" if before else ""
    print(f"{done} converted{share}, {skipped} skipped (exist already), {len(failures)} failed")
    for failure in failures:
        print(f"sgc: {failure}", file=sys.stderr)
    return 1 if failures or not jobs else 0


def _demo(args: argparse.Namespace) -> int:
    from .demo import compare

    if not all(importlib.util.find_spec(name) for name in ("scipy", "ssimulacra2")):
        raise ValueError('the demo measures quality, which needs: pip install "pillow-semicodec[metrics]"')
    if args.picture:
        with Image.open(args.picture) as image:
            picture = ImageOps.exif_transpose(image).convert("RGB")
    else:
        with Image.open(Path(__file__).parent / "demo.png") as image:
            picture = image.convert("RGB")
    print(compare(picture, args.quality, args.output))
    return 0
