"""What a viewer of the ball world sees and hears, from frames and sound alone: events, colour, pitch.

The thresholds belong to the world's 32 frames of 16x16 in 2.025 s. Frames of another size are brought to
16x16 by averaging areas, so that a clip written enlarged as mp4 and read back is judged alike.

Shapes: N clips, T frames, L tokens of 25 ms, K = 12 bands, C = 3 colours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ovi_eval.ball.sound_bands import FLOOR, TOKEN_SECONDS, band_energies
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.writing import resample

SIDE = 16
FLOOR_TOP = 13
LANDING_RISE = 0.18
LANDING_GAP_FRAMES = 4
ONSET_FLUX = 1.0
ONSET_GAP_TOKENS = 7
ONSET_OFFSET = 0.01
"""Added to the summed energy before the logarithm, so that hiss makes no flux."""
TONE_BANDS = (2, 4, 6, 8)
"""The bands of 350, 600, 1000 and 1600 Hz, the pitches of red, green, blue and yellow. No drum's overtone
lies in another drum's band."""
COLOURS = ("red", "green", "blue", "yellow")
COLOUR_RGB = ((1.0, 0.15, 0.15), (0.15, 1.0, 0.15), (0.25, 0.35, 1.0), (1.0, 0.9, 0.1))
DARK = 0.02
"""Mean brightness above the floor, of 1, below which no ball is seen. A ball makes about 0.13."""
TONELESS = 1e-4
"""Mean energy of the loudest drum band below which no drum is heard. A clip makes about 0.01."""
RATE = 8000


def seen(clips: ClipSet) -> Tensor:
    """Frames as float in [0, 1] of 16x16: [N, T, 16, 16, 3]."""
    frames = clips.frames_NTHWC
    if frames.shape[2:4] == (SIDE, SIDE):
        return frames.float() / 255
    small = []
    for clip_THWC in frames:
        clip_TCHW = clip_THWC.permute(0, 3, 1, 2).float() / 255
        small.append(torch.nn.functional.adaptive_avg_pool2d(clip_TCHW, SIDE).permute(0, 2, 3, 1))
    return torch.stack(small)


def heard(clips: ClipSet) -> Tensor:
    """Band energies [N, L, 12]; sound whose rate 25 ms does not divide is resampled to 8 kHz first."""
    waves, rate = clips.waves_NS, clips.sample_rate
    if rate % 80 or rate < RATE:
        waves, rate = torch.stack([resample(wave, rate, RATE) for wave in waves]), RATE
    return band_energies(waves, rate)


def floor_light(frames_NTHWC: Tensor) -> Tensor:
    """Mean over the floor of each pixel's largest channel, [N, T]: it leaps when the ball lands."""
    return frames_NTHWC[:, :, FLOOR_TOP:].amax(dim=-1).mean(dim=(2, 3))


def flux(bands_NLK: Tensor) -> Tensor:
    """How fast the sound, hum apart, grows louder, [N, L]: its rise over one token + half that over two."""
    loud_NL = torch.log(bands_NLK[..., 1:].exp().sum(dim=-1) + ONSET_OFFSET)
    rise_NL = torch.zeros_like(loud_NL)
    rise_NL[:, 1:] += loud_NL[:, 1:] - loud_NL[:, :-1]
    rise_NL[:, 2:] += 0.5 * (loud_NL[:, 2:] - loud_NL[:, :-2])
    return rise_NL


def landings(frames_NTHWC: Tensor, fps: float) -> list[list[float]]:
    """Seconds of each clip's landings: half a frame before the centre of the first brighter frame."""
    light_NT = floor_light(frames_NTHWC)
    leaps_NT = torch.zeros_like(light_NT, dtype=torch.bool)
    leaps_NT[:, 1:] = light_NT[:, 1:] - light_NT[:, :-1] > LANDING_RISE
    return _seconds(first_of_each(leaps_NT, LANDING_GAP_FRAMES), 1 / fps)


def onsets(bands_NLK: Tensor) -> list[list[float]]:
    """Seconds of each clip's onsets: half a token before the centre of the first louder token."""
    return _seconds(first_of_each(flux(bands_NLK) > ONSET_FLUX, ONSET_GAP_TOKENS), TOKEN_SECONDS)


def first_of_each(events_NT: Tensor, gap: int) -> Tensor:
    """From left to right, the events at least `gap` steps after the last one kept."""
    kept_NT = torch.zeros_like(events_NT)
    free_N = torch.zeros(events_NT.shape[0], dtype=torch.long)
    for step in range(events_NT.shape[1]):
        new_N = events_NT[:, step] & (free_N <= step)
        kept_NT[:, step] = new_N
        free_N = torch.where(new_N, step + gap, free_N)
    return kept_NT


def _seconds(events_NT: Tensor, step: float) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in range(events_NT.shape[0])]
    for clip, index in events_NT.nonzero().tolist():
        times[clip].append(index * step)
    return times


def colour(frames_NTHWC: Tensor) -> Tensor:
    """Index into COLOURS of the ball's colour, [N]; -1 where no ball is seen.

    The light above the floor, pixels weighted by their brightness, against the four colours' directions.
    """
    air_NPC = frames_NTHWC[:, :, :FLOOR_TOP].flatten(1, 3)
    bright_NP = air_NPC.amax(dim=-1)
    light_NC = (air_NPC * bright_NP[..., None]).sum(dim=1)
    wanted_KC = torch.nn.functional.normalize(torch.tensor(COLOUR_RGB), dim=-1)
    best_N = (torch.nn.functional.normalize(light_NC, dim=-1) @ wanted_KC.T).argmax(dim=-1)
    return torch.where(bright_NP.mean(dim=1) < DARK, -1, best_N)


def pitch(bands_NLK: Tensor) -> Tensor:
    """Index of the drum that sounds, [N], in the order of its ball's colour; -1 where none is heard."""
    loudest_N, best_N = bands_NLK[..., list(TONE_BANDS)].exp().mean(dim=1).max(dim=-1)
    return torch.where(loudest_N - FLOOR < TONELESS, -1, best_N)


def matched(first: Sequence[float], second: Sequence[float], within: float) -> int:
    """How many pairs `matched_pairs` finds."""
    return len(matched_pairs(first, second, within))


def matched_pairs(first: Sequence[float], second: Sequence[float], within: float) -> list[tuple[int, int]]:
    """Places of pairs one to one, closest first, no further apart than `within` seconds."""
    pairs = sorted(
        (abs(a - b), i, j) for i, a in enumerate(first) for j, b in enumerate(second) if abs(a - b) <= within
    )
    left, right = set(range(len(first))), set(range(len(second)))
    found = []
    for _, i, j in pairs:
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            found.append((i, j))
    return found


def nearest_offsets(first: Sequence[float], second: Sequence[float], cap: float) -> list[float]:
    """Seconds from each event of either list to the nearest of the other, `cap` at most."""
    return [
        min([cap] + [abs(a - b) for b in theirs])
        for ours, theirs in ((first, second), (second, first))
        for a in ours
    ]
