"""`ovi-doctor [weights=DIR] [checkpoint=NAME] [--sha256]`: the installation, the devices and the weights, checked.

Exit code 0 where all that is needed can be used, else 1; 2 for a wrong argument.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from ovi_eval.common.boundary import LineParser, command
from ovi_eval.common.installation import DISTRIBUTION, install_hint
from ovi_eval.common.shown import did_you_mean, shown
from ovi_lab import __version__
from ovi_lab.common.sizes import GIB
from ovi_lab.errors import UserError

WORDS = ("weights", "checkpoint")
USAGE = "ovi-doctor [weights=DIR] [checkpoint=NAME] [--sha256]"
_EXTRAS_LEFT_OUT = ("dev",)


@dataclass(frozen=True)
class Diagnosis:
    """The state of one item, a line of a table."""

    name: str
    state: str
    """The item's version, size or device."""
    fault: str = ""
    """The fault and its remedy in one line; empty without a fault."""
    needed: bool = True
    """Whether a fault makes the installation or the weights unusable."""


# --------------------------------------------------------------------------------------------- installation
def packages(distribution: str = DISTRIBUTION) -> list[Diagnosis]:
    """The packages that the project needs, then its extras.

    Raises:
        UserError: the project itself is not installed.
    """
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"{distribution} is not installed in this Python: pip install -e . in its checkout"
        ) from error
    required = [Requirement(line) for line in lines]

    def of(extra: str) -> list[Requirement]:
        return [r for r in required if r.marker is None or r.marker.evaluate({"extra": extra})]

    core = of("")
    found = [_diagnosis(r) for r in core]
    extras = importlib.metadata.metadata(distribution).get_all("Provides-Extra") or []
    for extra in sorted(set(extras) - set(_EXTRAS_LEFT_OUT)):
        own = [r for r in of(extra) if r not in core]
        lacking = [r.name for r in own if not _satisfied(r)]
        present = ", ".join(f"{r.name} {_version(r.name)}" for r in own if r.name not in lacking)
        fault = f"lacks {', '.join(lacking)}: {install_hint(extra)}" if lacking else ""
        found.append(Diagnosis(f"[{extra}]", present or "-", fault, needed=False))
    return found


def _diagnosis(requirement: Any) -> Diagnosis:
    version = _version(requirement.name)
    fault = "missing" if version is None else f"needs {requirement.specifier}"
    if _satisfied(requirement):
        return Diagnosis(requirement.name, str(version))
    return Diagnosis(requirement.name, version or "-", f"{fault}: pip install '{requirement}'")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _satisfied(requirement: Any) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def devices() -> list[Diagnosis]:
    """The CPU and every GPU that PyTorch sees."""
    import torch

    from ovi_lab.planning.sampling_report import available_host_memory

    free = available_host_memory()
    memory = "" if free is None else f", {free / GIB:.1f} GiB free"
    found = [Diagnosis("cpu", f"{platform.machine()}, {torch.get_num_threads()} threads{memory}")]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"CUDA {built}, no usable GPU or driver" if built else "CPUs"
        return [*found, Diagnosis("cuda", f"none: PyTorch is built for {why}")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        left, total = torch.cuda.mem_get_info(index)
        state = (
            f"{properties.name}, {left / GIB:.1f} of {total / GIB:.1f} GiB free, "
            f"sm_{properties.major}{properties.minor}, CUDA {torch.version.cuda}"
        )
        found.append(Diagnosis(f"cuda:{index}", state))
    return found


def ffmpeg() -> list[Diagnosis]:
    """The FFmpeg libraries inside PyAV, and the encoders that clips are written with."""
    try:
        import av
    except ImportError as error:
        return [Diagnosis("PyAV", "-", f"cannot be imported ({error}): pip install av")]
    libraries = ("libavcodec", "libavformat", "libswscale", "libswresample")
    versions: Any = av.library_versions
    state = ", ".join(f"{n} {'.'.join(map(str, versions[n]))}" for n in libraries if n in versions)
    found = [Diagnosis("libraries", state)]
    for name, use in (("libx264", "H.264"), ("aac", "AAC")):
        try:
            av.codec.Codec(name, "w")
        except ValueError:
            found.append(Diagnosis(name, "-", f"this PyAV writes no {use}: pip install --force-reinstall av"))
        else:
            found.append(Diagnosis(name, f"writes {use}"))
    return found


# -------------------------------------------------------------------------------------------------- weights
def weights(folder: Path, checkpoint: str | None = None, sha256: bool = False) -> Iterator[Diagnosis]:
    """Each part of the released layout: found, its size, and whole by its names and shapes.

    Args:
        folder: the folder of all weights.
        checkpoint: one preset; None takes the folder's own, or all whose towers are there.
        sha256: read every file for its digest.

    Raises:
        UserError: no such folder, or no such preset.
    """
    from ovi_lab.checkpoints.presets import PRESET_FILE, released_model, released_names
    from ovi_lab.checkpoints.weights_layout import PARTS, place

    if not folder.is_dir():
        raise UserError(
            f"weights={folder} is no folder: name the one that holds Ovi, Wan2.2-TI2V-5B and MMAudio"
        )
    if checkpoint is not None:
        presets = [released_model(checkpoint)]
    elif (folder / PRESET_FILE).is_file():
        presets = [released_model(folder)]
    else:
        every = [released_model(name) for name in released_names()]
        presets = [p for p in every if place(folder, "model", p) is not None] or every[:1]
    for part in PARTS:
        for preset in presets if part == "model" else presets[:1]:
            yield _part(folder, part, preset, sha256)


def _part(folder: Path, part: str, preset: Any, sha256: bool) -> Diagnosis:
    from ovi_eval.common.files import file_sha256
    from ovi_lab.checkpoints.weights_layout import PARTS, fault, place

    name = f"{PARTS[part][0]} ({preset.name})" if part == "model" else PARTS[part][0]
    wrong = fault(folder, part, preset)
    path = place(folder, part, preset)
    if wrong or path is None:
        return Diagnosis(name, "-" if path is None else _size(path), wrong or "missing")
    try:
        _check_content(path, part, preset)
    except UserError as error:
        return Diagnosis(name, _size(path), str(error))
    state = f"{path.relative_to(folder).as_posix()}, {_size(path)}"
    if sha256:
        state += "".join(f"\n{file_sha256(file)} {file.name}" for file in _files(path))
    return Diagnosis(name, state)


def _check_content(path: Path, part: str, preset: Any) -> None:
    """Raises UserError where names and shapes are not the preset's. Weights are mapped, not copied."""
    import torch

    from ovi_lab.codecs import mmaudio, wan22
    from ovi_lab.models import TwinDiT
    from ovi_lab.text import umt5
    from ovi_lab.weights.fit import check_fit
    from ovi_lab.weights.tensor_files import TensorFiles

    if part == "model":
        with torch.device("meta"):
            model = TwinDiT(**preset.model)
        check_fit(TensorFiles.open(path, "Ovi towers").tensors, model.state_dict(), str(path))
    elif part == "video_vae":
        wan22.Wan22VAE.from_file(path, preset.video_codec, dtype=None)
    elif part == "text_encoder":
        umt5.load_encoder(path, preset.text_encoder)
    elif part == "tokenizer":
        tokens = len(umt5.load_tokenizer(path))
        vocabulary = umt5.UMT5Config.of(preset.text_encoder).vocabulary
        if tokens > vocabulary:
            raise UserError(
                f"{path} has {tokens} tokens, the encoder {vocabulary}: they do not belong together"
            )
    elif part == "audio_vae":
        mmaudio.load_vae(path, mmaudio.MMAudioConfig.of(preset.audio_codec), None, "cpu")
    else:
        mmaudio.load_vocoder(path, mmaudio.MMAudioConfig.of(preset.audio_codec), None, "cpu")


def _files(path: Path) -> list[Path]:
    """The files that a part consists of: itself, a folder's, or an index and its shards."""
    from ovi_lab.weights.tensor_files import INDEX_SUFFIX, TensorFiles

    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file())
    if path.name.endswith(INDEX_SUFFIX):
        return [path, *sorted({t.file for t in TensorFiles.open(path).tensors.values()})]
    return [path]


def _size(path: Path) -> str:
    files = [path] if path.is_file() and path.suffix == ".json" else _files(path)
    size = sum(p.stat().st_size for p in files)
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 1024:.0f} KiB"


# ------------------------------------------------------------------------------------------------- printing
def _print(console: Console, title: str, columns: tuple[str, str], findings: Sequence[Diagnosis]) -> None:
    table = Table(
        Column("", width=2),
        Column(columns[0], ratio=3, overflow="fold"),
        Column(columns[1], ratio=7, overflow="fold"),
        title=title,
        title_justify="left",
        title_style="bold",
        width=console.width,
    )
    for finding in findings:
        mark = "[green]ok[/]"
        if finding.fault:
            mark = "[red]!![/]" if finding.needed else "[yellow]--[/]"
        state = "" if finding.fault and finding.state == "-" else finding.state
        lines = [*state.split("\n"), finding.fault]
        text = "\n".join(shown(line, None, to="rich") for line in lines if line)
        table.add_row(mark, shown(finding.name, None, to="rich"), text)
    console.print(table)


@command("error")
def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Print what was found; returns the exit code."""
    folder, checkpoint, sha256 = _parsed(sys.argv[1:] if arguments is None else arguments)
    console = console or Console()
    python = Diagnosis("Python", platform.python_version())
    tables = [
        ("Packages", ("Package", "Version"), lambda: [python, *packages()]),
        ("Devices", ("Device", "What it is"), devices),
        ("FFmpeg, through PyAV", ("Part", "What it is"), ffmpeg),
    ]
    if folder is not None:
        title = f"Weights in {shown(folder, None, to='rich')}"
        tables.append((title, ("Part", "File"), lambda: list(weights(folder, checkpoint, sha256))))
    findings: list[Diagnosis] = []
    for title, columns, look in tables:
        found = look()
        _print(console, title, columns, found)
        findings += found
    wrong = [finding for finding in findings if finding.fault and finding.needed]
    if wrong:
        console.print(f"[red]{len(wrong)} of what is needed is missing or not whole[/], marked !! above.")
        return 1
    subject = "The weights and all that is needed are" if folder is not None else "All that is needed is"
    console.print(f"{subject} here. Extras marked -- are for single uses; install those that you want.")
    return 0


def _parsed(arguments: Sequence[str]) -> tuple[Path | None, str | None, bool]:
    options = _parser().parse_args(arguments)
    values: dict[str, str] = {}
    for word in options.words:
        key, equals, value = word.partition("=")
        if not (equals and key in WORDS and value):
            offer = did_you_mean(key, WORDS)
            raise UserError(f"{word!r} is not understood{', ' if offer else ''}{offer[:-1]}: {USAGE}")
        values[key] = value
    if "weights" not in values and (options.sha256 or "checkpoint" in values):
        raise UserError(f"weights=DIR is not given: {USAGE}")
    folder = Path(values["weights"]).expanduser() if "weights" in values else None
    return folder, values.get("checkpoint"), options.sha256


def _parser() -> LineParser:
    parser = LineParser(
        prog="ovi-doctor",
        usage=USAGE,
        description="Check the installation, the devices and the released weights. Exit codes: 0 everything "
        "needed works, 1 something does not, 2 a wrong argument.",
    )
    parser.examples = (
        ("ovi-doctor", "packages, extras, devices, FFmpeg"),
        (
            "ovi-doctor weights=/data/ckpts",
            "also each file of the released weights: whether it is there and complete",
        ),
        (
            "ovi-doctor weights=/data/ckpts checkpoint=ovi_960x960_10s --sha256",
            "the files of one model, with their digests",
        ),
    )
    parser.add_argument("--version", action="version", version=f"ovi-doctor {__version__}")
    words = "weights=DIR, the folder that the weights lie in; checkpoint=NAME, one released model"
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help=words)
    parser.add_argument("--sha256", action="store_true", help="read every file and compare its digest")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
