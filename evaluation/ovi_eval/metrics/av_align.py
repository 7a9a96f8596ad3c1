"""AV-Align: how many peaks of sound and peaks of motion fall together, by the two rules that are published.

Yariv et al. 2023 ("Diverse and aligned audio-to-video generation via text-to-video model adaptation") match
onsets of the sound with local maxima of the optical flow that lie less than one frame apart, and divide the
matches by all peaks less the matches. Scripts differ in how they count:

- JavisBench (JavisDiT) takes every local maximum of the flow; one of them may answer several onsets, so the value
  is no share and can pass 1; 1e-6 is added below the line.
- MOVA takes local maxima of at least 0.1 pixels a frame; each answers one onset, the first that is near.

Sound: as 16-bit numbers at the file's own rate, mean of the channels, librosa's onset strength and onset
detection with their defaults. Motion: frames halved (INTER_AREA) until the longer side is at most 640, grey,
Farneback's flow (0.5, 3, 15, 3, 5, 1.2, 0) from frame to frame, mean length of its vectors to a millionth of a
pixel; the first frame has the second's value. Sound and picture both count from their own beginning. Frames that
are not evenly spaced are at their own times, see `evenly`. Silent clips, and clips with neither kind of peak, have no
value; the scripts give 0 or stop.

Shapes: A onsets, T frames, V peaks of the flow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovi_eval.clips import timing
from ovi_eval.clips.clipset import SILENT
from ovi_eval.clips.items import Item
from ovi_eval.clips.picture import Video
from ovi_eval.common.compiled import compiling, own_compiled_code
from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import Package, imported
from ovi_eval.common.processes import CPU
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec, variant_of

Array = NDArray[np.float64]

LONGER_SIDE = 640
SHORTEST_FRAMES = 3
SHORTEST_SOUND = 2048
"""Samples of librosa's window."""
DIGITS = 6
"""Decimals of the flow that are kept: OpenCV's further ones vary from call to call with where its buffers lie, and
in a still picture the rules would count that as peaks."""
MOVA_FLOOR = 0.1
"""Pixels a frame: Slower motion counts as none for MOVA."""
JAVIS_EPS = 1e-6
CV2, LIBROSA = (Package(name, install_hint("av-align")) for name in ("cv2", "librosa"))


class PeaksOfSoundAndMotion(Extractor):
    """Features: `onsets` [A] seconds, `flow` [T] pixels a frame, `fps` [1]; all float64."""

    name = "av_peaks"
    needs = (CV2, LIBROSA)
    preprocessing: ClassVar[str] = (
        "sound at its own rate, 16 bits, channels' mean, librosa onsets; frames halved by INTER_AREA until the "
        f"longer side is at most {LONGER_SIDE}, Farneback flow"
    )

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        own_compiled_code()
        self.cv2, self.librosa = (imported(package, "AV-Align") for package in self.needs)

    def load(self, item: Item) -> Features:
        """All of it: there is no network, and the flow is worth its own thread."""
        onsets_A = self.onsets(*heard(item))
        meter = _FlowMeter(self.cv2)
        video = item.frames_through(meter)
        if len(video.frames_THWC) < SHORTEST_FRAMES:
            count = len(video.frames_THWC)
            raise UserError(f"it has {count} frames, AV-Align needs at least {SHORTEST_FRAMES}")
        flow_T, fps = evenly(video)
        return {
            "onsets": torch.from_numpy(onsets_A),
            "flow": flow_T,
            "fps": torch.tensor([fps], dtype=torch.float64),
        }

    def run(self, loaded: Any) -> Features:
        return loaded

    def onsets(self, wave_S: NDArray[np.float32], sample_rate: int) -> Array:
        """When sounds begin, [A] seconds, by librosa's onset detection in steps of 512 samples."""
        with compiling():
            strength = self.librosa.onset.onset_strength(y=wave_S, sr=sample_rate)
            steps = self.librosa.onset.onset_detect(onset_envelope=strength, sr=sample_rate)
        return np.asarray(self.librosa.frames_to_time(steps, sr=sample_rate), dtype=np.float64)


def heard(item: Item) -> tuple[NDArray[np.float32], int]:
    """The clip's sound [S] in [-1, 1] as a script reads the WAV that FFmpeg writes of it, and its rate.

    Rounded to 16 bits channel by channel, then their mean, cut where the container says that the sound ends.
    Raises UserError where there is no sound or it is silence.
    """
    audio = item.audio(None, mono=False)
    whole_CS = (audio.wave_S * 32768).round().clamp(-32768, 32767) / 32768
    wave_S = whole_CS.mean(dim=0)[: len(item.pcm16(audio.sample_rate))]
    if float(wave_S.abs().max()) < SILENT:
        raise UserError("its sound is silence")
    if len(wave_S) < SHORTEST_SOUND:
        raise UserError(f"its sound has {len(wave_S)} samples, onsets are found in {SHORTEST_SOUND} or more")
    return wave_S.numpy().astype(np.float32), audio.sample_rate


def evenly(video: Video) -> tuple[Tensor, float]:
    """Flow [T] from frame to frame, at the frames' own times, as flow at a constant rate, and that rate.

    Of evenly spaced frames it is the flow itself. Of others the rate is that of their shortest usual spacing; a flow
    over a longer time becomes pixels in 1 / rate seconds, and lies at the moment nearest to its frame, the larger of
    two that fall on one. Between frames it is interpolated, so that the only peaks are those of frames.
    """
    flow_T = video.frames_THWC.double().clone()
    flow_T[0] = flow_T[1]
    if video.even:
        return flow_T, video.fps
    fps = timing.grid_rate(video.times_T, 1e-3)
    since_T = video.times_T - video.times_T[0]
    steps_T = (since_T.diff() * fps).clamp(min=0.5)
    flow_T[1:] /= steps_T
    flow_T[0] = flow_T[1]
    places: dict[int, float] = {}
    for time, flow in zip(since_T.tolist(), flow_T.tolist(), strict=True):
        place = timing.tick(time, fps)
        places[place] = max(flow, places.get(place, 0.0))
    even_T = np.interp(np.arange(max(places) + 1), list(places), list(places.values()))
    return torch.from_numpy(even_T.round(DIGITS)), fps


class _FlowMeter:
    """Called with each frame [H, W, 3] in turn: the mean flow from the frame before, 0 for the first."""

    def __init__(self, cv2: Any) -> None:
        self.cv2 = cv2
        self.before: Any = None

    def __call__(self, frame_HWC: Tensor) -> Tensor:
        cv2 = self.cv2
        picture = frame_HWC.numpy()
        while max(picture.shape[:2]) > LONGER_SIDE:
            half = (max(picture.shape[1] // 2, 1), max(picture.shape[0] // 2, 1))
            picture = cv2.resize(picture, half, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        flow = 0.0
        if self.before is not None:
            flow_HWC = cv2.calcOpticalFlowFarneback(self.before, grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)
            flow = round(cv2.mean(cv2.magnitude(flow_HWC[..., 0], flow_HWC[..., 1]))[0], DIGITS)
        self.before = grey
        return torch.tensor(flow, dtype=torch.float64)


def motion_peaks(flow_T: Array, fps: float, floor: float = 0.0) -> Array:
    """When the motion is larger than in the frames before and after and at least `floor`: [V] seconds."""
    inner = flow_T[1:-1]
    peaks = (inner > flow_T[:-2]) & (inner > flow_T[2:]) & (inner >= floor)
    return (np.flatnonzero(peaks) + 1) / fps


def javis_rule(onsets_A: Array, peaks_V: Array, fps: float) -> float:
    """JavisBench: onsets with any peak nearer than a frame, over all peaks less those onsets, plus 1e-6."""
    matched = int(_near(onsets_A, peaks_V, fps).any(axis=1).sum())
    return matched / (len(onsets_A) + len(peaks_V) - matched + JAVIS_EPS)


def mova_rule(onsets_A: Array, peaks_V: Array, fps: float) -> float:
    """MOVA: onset by onset the first peak nearer than a frame that no earlier onset took. In [0, 1]."""
    near_AV = _near(onsets_A, peaks_V, fps)
    free_V = np.ones(len(peaks_V), dtype=bool)
    matched = 0
    for near_V in near_AV:
        found = np.flatnonzero(near_V & free_V)
        if len(found):
            free_V[found[0]] = False
            matched += 1
    return matched / (len(onsets_A) + len(peaks_V) - matched)


def _near(onsets_A: Array, peaks_V: Array, fps: float) -> NDArray[np.bool_]:
    """[A, V]; rounded as the scripts round, since an onset can lie a frame from a peak to the last digit."""
    return (peaks_V - 1 / fps < onsets_A[:, None]) & (onsets_A[:, None] < peaks_V + 1 / fps)


class AvAlign(ItemMean):
    """AV-Align by one rule, of peaks of motion of at least `floor` pixels a frame."""

    extractor = PeaksOfSoundAndMotion
    rule: ClassVar[Callable[[Array, Array, float], float]]
    floor: ClassVar[float]

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        onsets_A, fps = features["onsets"].numpy(), float(features["fps"])
        peaks_V = motion_peaks(features["flow"].numpy(), fps, self.floor)
        if not len(onsets_A) and not len(peaks_V):
            raise UserError("it has no onset of sound and no peak of motion, so there is nothing to align")
        return [type(self).rule(onsets_A, peaks_V, fps)]


AV_ALIGN: dict[str, type[AvAlign]] = {
    name: variant_of(AvAlign, name, values=(ValueSpec(name, "higher"),), rule=staticmethod(rule), floor=floor)
    for name, rule, floor in (
        ("av_align_javis", javis_rule, 0.0),
        ("av_align_mova", mova_rule, MOVA_FLOOR),
    )
}
"""AV-Align as JavisBench and as MOVA count it."""
