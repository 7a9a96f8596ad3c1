"""Inspection of shards: counts, shapes, lengths, captions, faults, and a picture of a few clips.

Shape suffixes: T frames, H rows, W columns, C colours, S samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_eval.common.files import file_sha256, written_whole
from ovi_eval.common.shown import shown
from ovi_lab.codecs import LatentCodec
from ovi_lab.common.progress import progress
from ovi_lab.data.decode import LATENTS, MediaClip, decoded_clips, read_latents, read_media
from ovi_lab.data.index import LATENT_PARTS, BadSample, BadSampleError, read_index, scan_shard
from ovi_lab.data.kinds import BOTH, kind_of, modalities_of
from ovi_lab.data.shard_files import Shard, local_copy
from ovi_lab.data.shards import ShardReader
from ovi_lab.errors import UserError


@dataclass
class Inspection:
    """What was found. `shapes` counts (kind, what, shape in words)."""

    shards: int = 0
    samples: int = 0
    size: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    captions: Counter[str] = field(default_factory=Counter)
    bad: list[BadSample] = field(default_factory=list)
    first: list[tuple[str, MediaClip]] = field(default_factory=list)


def inspect_shards(
    paths: Sequence[Shard], codec: LatentCodec | None = None, keep: int = 0, quiet: bool = False
) -> Inspection:
    """Read every sample of the shards, and compare shards with the digests in their indexes.

    Args:
        paths: the shards.
        codec: decodes the first latents for the picture, where there are only latents.
        keep: how many clips to keep decoded (`first`).
    """
    found = Inspection(shards=len(paths))
    reader = ShardReader()
    indexes = []
    for path in paths:
        index = read_index(path)
        if index.sha256 is not None and file_sha256(local_copy(path)) != index.sha256:
            found.bad.append(BadSample(path.name, "(whole shard)", "its sha256 is not the one in its index"))
            index = scan_shard(path)  # an index of other bytes tells nothing
        found.bad += index.bad
        indexes.append(index)
    entries = [entry for index in indexes for entry in index.entries]
    found.size = sum(size for entry in entries for _, size in entry.members.values())
    for entry in progress(iter(entries), "reading", len(entries), not quiet):
        try:
            members = reader.read(entry)
            modalities = modalities_of(members) if LATENTS not in members else BOTH
            clip: MediaClip | None
            if kind_of(members, modalities or BOTH) == "latents":
                clip = _latents(members, found, codec if len(found.first) < keep else None)
            else:
                clip = read_media(members, modalities=modalities)
                _count_media(clip, found)
                clip = clip if modalities == BOTH else None
        except BadSampleError as error:
            found.bad.append(BadSample(entry.shard.name, entry.key, str(error)))
            continue
        found.samples += 1
        if clip is not None and len(found.first) < keep:
            found.first.append((entry.key, clip))
    reader.close()
    return found


def _count_media(clip: MediaClip, found: Inspection) -> None:
    T, H, W, _ = clip.frames_THWC.shape
    picture = f"{T} frames of {H}x{W} at {clip.fps:.4g}/s" if T else ""
    sound = f"sound at {clip.sample_rate} Hz" if clip.has_audio else ""
    found.kinds["media" if T and sound else "silent" if T else "sound"] += 1
    found.shapes[", ".join(filter(None, (picture, sound)))] += 1
    found.seconds.append(T / clip.fps if T else len(clip.wave_S) / clip.sample_rate)
    found.captions[clip.caption] += 1


def _latents(members: dict[str, bytes], found: Inspection, codec: LatentCodec | None) -> MediaClip | None:
    sample = read_latents(members, None)
    found.kinds["latents"] += 1
    there = [part for part in LATENT_PARTS if part in sample]
    found.shapes[", ".join(f"{part} latents {list(sample[part].shape)}" for part in there)] += 1
    found.captions[sample["caption"]] += 1
    if codec is None or not set(BOTH) <= set(there):
        return None
    return decoded_clips([sample], codec)[0]


def contact_sheet(clips: Sequence[tuple[str, MediaClip]], path: Path, width: int = 1024) -> Path:
    """A PNG with each clip's frames side by side above its spectrogram (time to the right), under its caption.

    Raises:
        UserError: there is no clip to show.
    """
    from PIL import Image, ImageDraw

    if not clips:
        raise UserError("no clip can be shown; shards of latents need --codec to decode them")
    rows = [_row(clip, width) for _, clip in clips]
    label = 14
    sheet = Image.new("RGB", (width, sum(row.shape[0] + label + 6 for row in rows)), (40, 40, 40))
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (key, clip), row in zip(clips, rows, strict=True):
        text = shown(f"{key}: {clip.caption}").encode("latin-1", "replace").decode("latin-1")
        draw.text((4, top + 1), text[: width // 6], fill=(230, 230, 230))
        sheet.paste(Image.fromarray(row.numpy()), (0, top + label))
        top += row.shape[0] + label + 6
    with written_whole(path) as temporary:
        sheet.save(temporary, "PNG")
    return path


def _row(clip: MediaClip, width: int) -> Tensor:
    """uint8 [rows, width, 3]: frames, then the spectrogram."""
    T, H, W, _ = clip.frames_THWC.shape
    count = min(T, max(1, width // max(32, round(64 * W / H))))
    shown = torch.linspace(0, T - 1, count).round().long()
    cell = width // count
    high = min(width, max(1, round(cell * H / W)))
    frames_TCHW = clip.frames_THWC[shown].permute(0, 3, 1, 2).float()
    enlarged = torch.nn.functional.interpolate(
        frames_TCHW, (high, cell), mode="nearest-exact" if cell >= W else "area"
    )
    strip = torch.zeros(high, width, 3, dtype=torch.uint8)
    strip[:, : count * cell] = (
        enlarged.permute(2, 0, 3, 1).reshape(high, count * cell, 3).round().clamp(0, 255).to(torch.uint8)
    )
    picture = spectrogram_picture(clip.wave_S, clip.sample_rate, count * cell)
    padded = torch.zeros(picture.shape[0], width, 3, dtype=torch.uint8)
    padded[:, : count * cell] = picture
    return torch.cat([strip, padded])


def spectrogram_picture(wave_S: Tensor, sample_rate: int, width: int, height: int = 72) -> Tensor:
    """uint8 [height, width, 3]: level in dB over 80 dB below the loudest, low frequencies at the bottom."""
    import matplotlib

    size = 2 ** max(6, round(sample_rate * 0.032).bit_length())
    window = torch.hann_window(size)
    padded = torch.nn.functional.pad(wave_S, (0, max(0, size - len(wave_S))))
    power = torch.stft(padded, size, size // 4, window=window, return_complex=True).abs().square()
    level = 10 * torch.log10(power / power.max().clamp(min=1e-8) + 1e-8) / 80 + 1
    level = torch.nn.functional.interpolate(level[None, None], (height, width), mode="area")[0, 0].flip(0)
    colours: Any = matplotlib.colormaps["magma"](level.clamp(0, 1).numpy())
    return torch.from_numpy((colours[..., :3] * 255).astype("uint8"))
