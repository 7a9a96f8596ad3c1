"""Metrics that call other packages' networks: their arithmetic, and what a reference gave for one real clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from ovi_eval.check.case import Cases, Setting, keys_of
from ovi_eval.check.lines import Line, close, same
from ovi_eval.clips.items import FileItem
from ovi_eval.metrics.base import ItemMean
from ovi_eval.metrics.plugins.audiobox import AudioBoxAesthetics
from ovi_eval.metrics.plugins.desync import FPS, FRAME_STEP, FRAMES, WINDOW, DeSync, desync, offsets, windows
from ovi_eval.metrics.plugins.imagebind import ImageBindScore

CASES = Cases()
EXTRA_JSON = "extra_golden.json"
FASTVIDEO, REFERENCE = "fastvideo_reference_scores", "FastVideo@2f3d4074"


@CASES.case(
    "desync.grid", "DeSync", "av-benchmark@050a5cdb", *keys_of(EXTRA_JSON, "desync_grid", "desync_rule")
)
def desync_grid(setting: Setting) -> Iterator[Line]:
    grid = setting.goldens.json(EXTRA_JSON, "desync_grid")
    why = "steps of 0.2 in float64"
    yield close("the 21 offsets", offsets(), grid, rtol=0, atol=1e-12, why=why)
    # The rule in words: windows of the first and last 14 segments of 16 frames, 8 apart: 4.8 s at 25 frames a second.
    first, last = windows(24)
    yield same("windows of 24 segments", [first.start, first.stop, last.start, last.stop], [0, 14, 10, 24])
    yield close("seconds of a window", ((WINDOW - 1) * FRAME_STEP + FRAMES) / FPS, 4.8, rtol=1e-12, why=why)
    certain = torch.eye(len(grid))
    found = [desync(certain[[place, -1 - place]]) for place in range(len(grid))]
    expected = [(abs(grid[place]) + abs(grid[-1 - place])) / 2 for place in range(len(grid))]
    yield close("score of each offset and its opposite", found, expected, rtol=0, atol=1e-12, why=why)


def _of_ltx2(
    metric: type[ItemMean], file: str, keys: Mapping[str, tuple[str, ...]], clip: str, atol: float
) -> None:
    @CASES.case(
        f"{metric.name.split('_')[0]}.ltx2", metric.name, REFERENCE, f"{FASTVIDEO}/{file}: *", slow=True
    )
    def run(setting: Setting) -> Iterator[Line]:
        path = setting.clip(f"ltx2/{clip}")
        setting.need(*metric.extractor.needs)
        extractor = metric.extractor()
        with torch.no_grad():
            features = extractor.run(extractor.load(FileItem(path, path.stem)))
        found = dict(zip((spec.key for spec in metric.values), metric().measure(features), strict=True))
        why = "sound is resampled by FFmpeg here and by torchaudio there; how much that does is not known"
        for key, where in keys.items():
            expected = setting.goldens.json(f"{FASTVIDEO}/{file}", *where)
            yield close(key, found[key], expected, rtol=0, atol=atol, why=why)


AXES = {f"audiobox_{axis.lower()}": ("details", axis) for axis in ("CE", "CU", "PC", "PQ")}
_of_ltx2(DeSync, "audio.desync.json", {"desync": ("score",)}, "ltx2.mp4", 1e-6)
_of_ltx2(ImageBindScore, "audio.imagebind_score.json", {"imagebind_score": ("score",)}, "ltx2.mp4", 0.02)
_of_ltx2(AudioBoxAesthetics, "audio.audiobox_aesthetics.json", AXES, "ltx2.wav", 0.1)

CASES.not_run(
    "videoscore2.ltx2",
    "VideoScore2",
    REFERENCE,
    f"{FASTVIDEO}/videoscore2.json: *",
    reason="ovi-eval has no plug-in that runs TIGER-Lab/VideoScore2",
)
