"""Run folders of a small study, made up from a seed: numbers as the arms of the fusion ablation give them.

The clips are drawn here, so that the leaderboard is tested without any model: a ball that lands at some
moments and a sound that hits at the same moments (or elsewhere, where the arm is out of step).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovi_eval.clips.writing import write_mp4
from ovi_eval.results.files import ClipScores, MetricValue, RunResults
from ovi_eval.results.published import PublishedTable

FPS = 32 / 2.025
RATE = 8000
COLOURS = {"red": (1, 0.15, 0.15, 350), "green": (0.15, 1, 0.15, 600), "blue": (0.25, 0.35, 1, 1000)}
# mean onset F1, mean offset in ms, agreement on vague captions, Fréchet distance of the picture, audio loss
ARMS = {
    "bidirectional_scaled": (0.85, 61, 0.94, 4.1, 0.285),
    "bidirectional_unscaled": (0.21, 207, 0.95, 9.3, 0.286),
    "none": (0.20, 211, 0.26, 9.6, 0.275),
}
REFERENCES = {
    "real": (0.988, 22, 1.0, 0.0, None),
    "real_shifted_150ms": (0.02, 140, 1.0, 0.0, None),
    "real_shuffled": (0.25, 169, 1.0, 0.0, None),
}
CLAIMS: list[dict[str, Any]] = [
    {
        "comparisons": [
            {"metric": "ball/agreement_vague", "arm": "bidirectional_scaled", "versus": "none"},
            {"metric": "ball/agreement_vague", "arm": "bidirectional_unscaled", "versus": "none"},
        ],
        "supported": "Fusion carries what: agreement {a} and {a2} with it, {b} without ({p}).",
        "unsupported": "The data do not show that fusion carries what: {a} and {a2} with it, {b} without.",
    },
    {
        "metric": "ball/onset_f1",
        "arm": "bidirectional_scaled",
        "versus": "bidirectional_unscaled",
        "supported": "Scaled RoPE carries when: onset F1 {a} scaled, {b} unscaled ({difference}, {p}).",
        "unsupported": "The data do not show that scaled RoPE carries when: {a} scaled, {b} unscaled.",
    },
]


def run(
    name: str, seed: int | None, *, n_clips: int = 40, kind: Any = "measured", **changes: Any
) -> RunResults:
    """One run with a value per clip for three metrics, a Fréchet distance and two losses."""
    f1, offset, agreement, frechet, loss = {**ARMS, **REFERENCES}.get(name, (0.5, 100, 0.5, 5.0, 0.3))
    rng = np.random.default_rng([1 if seed is None else seed, sum(map(ord, name))])
    drift = rng.normal(0, 0.02)
    clips = []
    for index in range(n_clips):
        vague = index % 2 == 1
        what, count = "ball" if vague else "red ball", "two" if index % 3 else "three"
        score = float(np.clip(np.round((f1 + drift + rng.normal(0, 0.12)) * 12) / 12, 0, 1))
        clips.append(
            ClipScores(
                f"clip_{index:04d}",
                {
                    "ball/onset_f1": score,
                    "ball/onset_offset_ms": float(max(0, offset + rng.normal(0, 15))),
                    "ball/agreement_vague": float(rng.random() < agreement) if vague else None,
                },
                caption=f"a {what} bounces {count} times",
            )
        )
    made: dict[str, MetricValue] = {}
    for key, direction, unit in (
        ("ball/onset_f1", "higher", ""),
        ("ball/onset_offset_ms", "lower", "ms"),
        ("ball/agreement_vague", "higher", ""),
    ):
        values = [clip.values[key] for clip in clips if clip.values[key] is not None]
        made[key] = MetricValue(float(np.mean(values)), len(values), direction, 1.0, unit)  # type: ignore[arg-type]
    made["ball/frechet_video"] = MetricValue(
        frechet + float(rng.normal(0, 0.2)), n_clips, "lower", kind="frechet", variant="judge-64"
    )
    fields: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "kind": kind,
        "metrics": made,
        "n_clips": n_clips,
        "clips": clips,
        "losses": {} if loss is None else {"val_loss_audio": loss + float(rng.normal(0, 0.003))},
        "config_hash": f"{sum(map(ord, name)):08x}",
        "provenance": {"git": "0123abc", "machine": "2 cores", "versions": {"torch": "2.13.0"}},
        "created": "2025-10-01T00:00:00+00:00",
    }
    return RunResults(**{**fields, **changes})


def write_study(root: Path, seeds: Sequence[int] = (0, 1, 2), n_clips: int = 40, playable: int = 0) -> Path:
    """runs/<study>/<arm>/seed_<s> and runs/<study>/references/<name>; `playable` clips of each get an mp4."""
    study = root / "runs" / "fusion_ablation"
    for name in ARMS:
        for seed in seeds:
            folder = study / name / f"seed_{seed}"
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(f"seed: {seed}\n")
            run(name, seed, n_clips=n_clips).write(folder)
            if seed == seeds[0]:
                write_clips(folder / "clips", playable, late=0.0 if name == "bidirectional_scaled" else 0.2)
    for name in REFERENCES:
        folder = study / "references" / name
        run(name, None, n_clips=n_clips, kind="reference").write(folder)
        write_clips(folder / "clips", playable, late=0.15 if name != "real" else 0.0)
    return study


def write_clips(folder: Path, count: int, late: float) -> None:
    """mp4 files of bouncing balls whose hits sound `late` seconds after the landings."""
    for index in range(count):
        rng = np.random.default_rng(index)
        colour = list(COLOURS)[index % len(COLOURS)]
        first = rng.uniform(0.1, 0.6)
        landings = np.arange(first, 2.0, rng.uniform(0.45, 0.85))
        frames, wave = draw(landings, landings + late, colour, rng)
        folder.mkdir(parents=True, exist_ok=True)
        write_mp4(folder / f"clip_{index:04d}.mp4", frames, FPS, wave, RATE, enlarge_to=128)


def draw(
    landings: np.ndarray, hits: np.ndarray, colour: str, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """32 frames [32, 16, 16, 3] uint8 and 16,200 samples: a ball, a floor that glows, a tone at every hit."""
    *rgb, pitch = COLOURS[colour]
    gap = landings[1] - landings[0] if len(landings) > 1 else 0.8
    rows, columns = np.mgrid[0:16, 0:16]
    frames = np.zeros((32, 16, 16, 3))
    for i, t in enumerate((np.arange(32) + 0.5) / FPS):
        phase = ((t - landings[0]) / gap) % 1.0
        y = 10.0 - 4 * 6.8 * (gap / 0.9) ** 2 * phase * (1 - phase)
        disc = 1 / (1 + np.exp(1.3 * (np.hypot(rows - y, columns - 8) - 2.6)))
        glow = sum(np.exp(-(t - at) / 0.11) for at in landings if at <= t)
        frames[i] = disc[..., None] * rgb
        frames[i, 13:] = 0.12 + 0.85 * min(1.0, float(glow)) * np.array(rgb)
    time = np.arange(16200) / RATE
    wave = 0.04 * np.sin(2 * np.pi * 110 * time)
    for at in hits:
        since = np.clip(time - at, 0, None)
        wave += (time >= at) * np.exp(-since / 0.1) * 0.5 * np.sin(2 * np.pi * pitch * since)
        wave += (time >= at) * np.exp(-since / 0.012) * 0.2 * rng.normal(size=time.size)
    pixels = torch.from_numpy((np.clip(frames, 0, 1) * 255).astype(np.uint8))
    return pixels, torch.from_numpy(np.clip(wave, -1, 1).astype(np.float32))


BENCHMARKS = ("Verse-Bench", "Harmony-Bench")
NO_FACE = "no face track of 50 frames or more"
UNREADABLE = "cannot be decoded (Invalid data found); the file is damaged or of no known kind"
LONG_NAME = "somebodys_model_named_after_all_its_settings_lr1e-4_bs64_ema_0.9999_seed_unknown"
MODELS = ("Ovi 1.1", "MOVA-360p", LONG_NAME, "LTX-2")
PUBLISHED = [
    PublishedTable("Verse-Bench", "A table", "https://example.org/a", "a page", True, {"Ovi": {"FVD": 1.5}}),
    PublishedTable("Other-Bench", "B table", "https://example.org/b", "a page", False, {"Ovi": {"FAD": 2.5}}),
]
I3D = "0f1e2d3c" * 8


def scored(name: str, benchmark: str, clips: Path, *, n_clips: int = 8, kind: Any = "measured") -> RunResults:
    """A folder of somebody's clips as `ovi-eval score` leaves it: sets, means, reasons, warnings, weights.

    Models at odd places of MODELS have the other variant of FVD; the last one's is of a part of the clips.
    """
    place = MODELS.index(name) if name in MODELS else len(MODELS)
    rng = np.random.default_rng([place, len(benchmark)])
    entries = []
    for index in range(n_clips):
        values: dict[str, float | None] = {
            "sync_c": float(5 + rng.normal()),
            "sync_offset_ms": float(20 + 30 * rng.normal()),
            "clap": float(np.clip(0.3 + 0.1 * rng.normal(), 0, 1)),
        }
        reasons, failed = {}, None
        if index == 1:
            values["sync_c"] = values["sync_offset_ms"] = None
            reasons["sync"] = NO_FACE
        if index == 2 and place == 0:
            values, failed = {}, UNREADABLE
        caption = f"Somebody says <S>line {index}<E> while a dog barks"
        entries.append(ClipScores(f"clip_{index:04d}", values, caption, failed, reasons))
    made = {
        "fvd": MetricValue(
            float(300 + 30 * np.clip(rng.normal(), -2, 2)),
            n_clips,
            "lower",
            version="2",
            variant="videogpt" if place % 2 else "stylegan-v",
            kind="frechet",
            ci95=(220.0, 420.0),
            dimension=400,
            bias=41.5,
            weights={"i3d_torchscript.pt": I3D},
            preprocessing="short side to 224, centre crop, [-1, 1]",
            warnings=(f"{n_clips} clips are fewer than the 400 dimensions",),
            comparable=place != len(MODELS) - 1,
        ),
        "isc": MetricValue(float(9 + rng.normal()), n_clips, "higher", kind="set", version="1"),
    }
    ways: dict[str, tuple[Any, str]] = {
        "sync_c": ("higher", ""),
        "sync_offset_ms": ("closer_to_reference", "ms"),
        "clap": ("higher", ""),
    }
    for key, (direction, unit) in ways.items():
        found = [value for entry in entries if (value := entry.values.get(key)) is not None]
        mean, share = float(np.mean(found)), len(found) / n_clips
        made[key] = MetricValue(mean, len(found), direction, share, unit, preprocessing="25 fps, 16 kHz mono")
    return RunResults(
        name,
        made,
        n_clips,
        kind=kind,
        clips=entries,
        benchmark=benchmark,
        config_hash=f"{place:08x}",
        provenance={"clips": str(clips), "command": "ovi-eval score", "versions": {"av": "14.1"}},
        created="2025-10-02T00:00:00+00:00",
    )


def write_board(root: Path, playable: int = 0, n_clips: int = 8) -> list[Path]:
    """Results files of MODELS on two benchmarks (the second model on one), and of real clips; `playable` clips of
    each lie as mp4 in a folder elsewhere.
    """
    paths = []
    for name in (*MODELS, "real"):
        for benchmark in BENCHMARKS:
            if name == MODELS[1] and benchmark == BENCHMARKS[1]:
                continue
            clips = root / "generated" / name.replace(" ", "_") / benchmark
            if not paths:
                write_clips(clips, playable, late=0.0)
            elif playable:
                shutil.copytree(root / "generated" / MODELS[0].replace(" ", "_") / BENCHMARKS[0], clips)
            kind = "reference" if name == "real" else "measured"
            results = root / "results" / f"{name.replace(' ', '_')}_{benchmark}.json"
            paths.append(scored(name, benchmark, clips, n_clips=n_clips, kind=kind).write(results))
    return paths
