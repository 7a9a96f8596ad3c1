"""Three small judges of the ball world: one sees, one hears, one knows whether both are in time.

VideoJudge and AudioJudge squeeze a clip into 64 features, eight numbers for each eighth of its length, from
which the colour (or pitch), the number of events and a map of when they happen are predicted. Features that
care for what and when are what the Fréchet distances of `ball/frechet_*` are taken in. SyncNet follows
Chung and Zisserman (2016): windows of five frames against the sound of the same moment, trained by contrast
against other moments and clips.

They are trained on real clips of the world; `loss` takes such clips and blurs and blots them a little, so
that what a codec loses is no surprise.

Shapes: N clips, T frames, L tokens of 25 ms, K = 12 bands, C channels, B = 8 bins of time, E embedding,
V windows of the picture, A windows of the sound.
"""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi_eval.ball import detectors
from ovi_eval.ball.sound_bands import FLOOR, NUM_BANDS, TOKEN_SECONDS
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.errors import UserError

BINS = 8
PER_BIN = 8
MAX_COUNT = 7
WINDOW_FRAMES = 5
WINDOW_TOKENS = 13
"""Five frames of the world last 0.316 s, 12.7 tokens."""
BUMP_SECONDS = 0.04
MAX_SHIFT = 25
"""Largest shift looked at, in tokens: 0.625 s, a third of a clip; landings are 0.4 to 0.9 s apart."""


def frames_of(clips: ClipSet, judge: nn.Module) -> Tensor:
    """What a judge sees, where it lives: [N, T, 3, 16, 16], -1 to 1."""
    frames_NTCHW = detectors.seen(clips).permute(0, 1, 4, 2, 3) * 2 - 1
    return frames_NTCHW.to(next(judge.parameters()).device)


def bands_of(clips: ClipSet, judge: nn.Module) -> Tensor:
    """What a judge hears, where it lives: [N, L, 12], silence 0, a drum's onset about 4."""
    return (detectors.heard(clips) - math.log(FLOOR)).to(next(judge.parameters()).device)


class FrameEncoder(nn.Module):
    """Each frame by itself: [N, T, 3, 16, 16] to [N, T, C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(3, 16, 4, stride=2, padding=1)
        self.far = nn.Conv2d(16, 24, 4, stride=2, padding=1)
        self.out = nn.Linear(24 * 16, width)

    def forward(self, frames_NTCHW: Tensor) -> Tensor:
        x = F.silu(self.near(frames_NTCHW.flatten(0, 1)))
        x = F.silu(self.far(x)).flatten(1)
        return F.silu(self.out(x)).unflatten(0, frames_NTCHW.shape[:2])


class Squeeze(nn.Module):
    """Steps in time [N, T, C] to 64 features, and back from these alone to what, how many and when."""

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        stride = steps // BINS
        self.mix = nn.ModuleList([nn.Conv1d(width, width, 5, padding=2) for _ in range(2)])
        self.narrow = nn.Conv1d(width, PER_BIN, stride, stride=stride)
        # Features come out with mean 0 and variance 1 on real clips, so that distances in them have a scale.
        self.level = nn.BatchNorm1d(BINS * PER_BIN, affine=False)
        self.kind = nn.Linear(BINS * PER_BIN, len(detectors.COLOURS))
        self.count = nn.Linear(BINS * PER_BIN, MAX_COUNT + 1)
        self.join = nn.Conv1d(PER_BIN, width, 3, padding=1)
        self.widen = nn.ConvTranspose1d(width, width, stride, stride=stride)
        self.when = nn.Conv1d(width, 1, 5, padding=2)

    def features(self, steps_NTC: Tensor) -> Tensor:
        """[N, 64]: 8 numbers for each of 8 bins of time. Other lengths than the world's are drawn to it."""
        x_NCT = steps_NTC.transpose(1, 2)
        if x_NCT.shape[-1] != self.steps:
            x_NCT = F.interpolate(x_NCT, size=self.steps, mode="linear", align_corners=False)
        for conv in self.mix:
            x_NCT = x_NCT + F.silu(conv(x_NCT))
        return self.level(self.narrow(x_NCT).transpose(1, 2).flatten(1))

    def answers(self, features_NF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the kind [N, 4], of the number of events [N, 8], and of an event at each step [N, steps]."""
        binned_NCB = features_NF.unflatten(1, (BINS, PER_BIN)).transpose(1, 2)
        wide_NCT = F.silu(self.widen(F.silu(self.join(binned_NCB))))
        return self.kind(features_NF), self.count(features_NF), self.when(wide_NCT)[:, 0]

    def loss(self, features_NF: Tensor, clips: ClipSet) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropies of what, how many and when, and how often the first two are right."""
        kind_NK, count_NM, when_NT = self.answers(features_NF)
        true_kind_N, true_count_N, true_when_NT = truth(clips, self.steps, features_NF.device)
        parts = {
            "kind": F.cross_entropy(kind_NK, true_kind_N),
            "count": F.cross_entropy(count_NM, true_count_N),
            # Few steps hold an event: their errors weigh more.
            "when": F.binary_cross_entropy_with_logits(when_NT, true_when_NT, weight=1 + 4 * true_when_NT),
        }
        scores = {
            "kind_accuracy": (kind_NK.argmax(1) == true_kind_N).float().mean(),
            "count_accuracy": (count_NM.argmax(1) == true_count_N).float().mean(),
        }
        total = parts["kind"] + 0.5 * parts["count"] + 4 * parts["when"]
        return total, {**{key: value.detach() for key, value in parts.items()}, **scores}


def truth(clips: ClipSet, steps: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What the generator says of the clips: colour [N], number of events [N], and a bump around each event [N, steps].

    Raises UserError naming the clip whose meta lacks its colour or its landings.
    """
    duration = clips.frames_NTHWC.shape[1] / clips.fps
    centres_T = (torch.arange(steps) + 0.5) * duration / steps
    kinds, counts, bumps = [], [], []
    for name, meta in zip(clips.ids, clips.meta, strict=True):
        if meta.get("colour") not in detectors.COLOURS or "landings_s" not in meta:
            raise UserError(
                f"{name}: judges are trained on clips whose meta has colour and landings_s, "
                f"this one's has {', '.join(sorted(meta)) or 'nothing'}"
            )
        kinds.append(detectors.COLOURS.index(meta["colour"]))
        counts.append(min(len(meta["landings_s"]), MAX_COUNT))
        away_TM = centres_T[:, None] - torch.tensor([*meta["landings_s"], 1e3])
        bumps.append(torch.exp(-0.5 * (away_TM / BUMP_SECONDS).square()).amax(dim=1))
    return torch.tensor(kinds).to(device), torch.tensor(counts).to(device), torch.stack(bumps).to(device)


class _Judge(nn.Module):
    """64 features of one modality, from which kind, number and moments of events are predicted."""

    squeeze: Squeeze

    @abstractmethod
    def steps(self, clips: ClipSet, generator: torch.Generator | None = None) -> Tensor:
        """Steps in time [N, T, C]; with a generator what is seen or heard is degraded first."""

    def features(self, clips: ClipSet) -> Tensor:
        """[N, 64] of the clips."""
        return self.squeeze.features(self.steps(clips))

    def loss(
        self, clips: ClipSet, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss on real clips of the world, and what it is made of."""
        return self.squeeze.loss(self.squeeze.features(self.steps(clips, generator)), clips)


class VideoJudge(_Judge):
    """Sees the picture: its colour and its landings."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.encoder = FrameEncoder(width)
        self.squeeze = Squeeze(width, steps=32)

    def steps(self, clips: ClipSet, generator: torch.Generator | None = None) -> Tensor:
        return self.encoder(blot(frames_of(clips, self), generator))


class AudioJudge(_Judge):
    """Hears the sound: its pitch and its hits."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(NUM_BANDS, width, 5, padding=2)
        self.squeeze = Squeeze(width, steps=80)

    def steps(self, clips: ClipSet, generator: torch.Generator | None = None) -> Tensor:
        return F.silu(self.inlet(smear(bands_of(clips, self), generator).transpose(1, 2))).transpose(1, 2)


class BallSyncNet(nn.Module):
    """Embeds five frames, and the sound of as long, on a sphere: near where both are of one moment."""

    def __init__(self, width: int = 48, embedding: int = 32) -> None:
        super().__init__()
        self.encoder = FrameEncoder(width)
        self.look = nn.Conv1d(width, 2 * width, WINDOW_FRAMES)
        self.seen = nn.Linear(2 * width, embedding)
        self.inlet = nn.Conv1d(NUM_BANDS, width, 5)
        self.listen = nn.Conv1d(width, width, 5)
        self.hear = nn.Conv1d(width, 2 * width, WINDOW_TOKENS - 8)
        self.heard = nn.Linear(2 * width, embedding)
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    def embed_frames(self, frames_NTCHW: Tensor) -> Tensor:
        """[N, V, E] of length 1, V = T - 4: window i begins with frame i."""
        x_NCV = F.silu(self.look(self.encoder(frames_NTCHW).transpose(1, 2)))
        return F.normalize(self.seen(x_NCV.transpose(1, 2)), dim=-1)

    def embed_bands(self, bands_NLK: Tensor) -> Tensor:
        """[N, A, E] of length 1, A = L - 12: window j begins with token j."""
        x_NCA = F.silu(self.listen(F.silu(self.inlet(bands_NLK.transpose(1, 2)))))
        return F.normalize(self.heard(F.silu(self.hear(x_NCA)).transpose(1, 2)), dim=-1)

    def forward(self, clips: ClipSet) -> tuple[Tensor, Tensor]:
        """Embeddings of picture [N, V, E] and sound [N, A, E]. Raises UserError for clips shorter than a window."""
        frames_NTCHW, bands_NLK = frames_of(clips, self), bands_of(clips, self)
        if frames_NTCHW.shape[1] < WINDOW_FRAMES or bands_NLK.shape[1] < WINDOW_TOKENS:
            raise UserError(
                f"SyncNet looks at {WINDOW_FRAMES} frames and {WINDOW_TOKENS} tokens of 25 ms at once; "
                f"these clips have {frames_NTCHW.shape[1]} and {bands_NLK.shape[1]}"
            )
        return self.embed_frames(frames_NTCHW), self.embed_bands(bands_NLK)

    def loss(
        self, clips: ClipSet, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the right moment among the other shifts of the clip and the other clips' same
        moment.

        Neighbouring tokens, half as far as a frame lasts, share the right answer.
        """
        seen_NVE = self.embed_frames(blot(frames_of(clips, self), generator))
        heard_NAE = self.embed_bands(smear(bands_of(clips, self), generator))
        scale = self.sharpness.exp()
        same_V = same_moment(seen_NVE.shape[1], clips.fps)
        shifts_R = torch.arange(-MAX_SHIFT, MAX_SHIFT + 1)
        at_VR = same_V[:, None] + shifts_R
        inside_VR = ((at_VR >= 0) & (at_VR < heard_NAE.shape[1])).to(seen_NVE.device)
        near_NVRE = heard_NAE[:, at_VR.clamp(0, heard_NAE.shape[1] - 1)]
        own_NVR = scale * torch.einsum("nve,nvre->nvr", seen_NVE, near_NVRE)
        own_NVR = own_NVR.masked_fill(~inside_VR, -1e4)
        there_NVE = heard_NAE[:, same_V.clamp(0, heard_NAE.shape[1] - 1)]
        others_NVM = scale * torch.einsum("nve,mve->nvm", seen_NVE, there_NVE)
        itself = torch.eye(len(clips), dtype=torch.bool, device=seen_NVE.device)[:, None]
        logits = torch.cat([own_NVR, others_NVM.masked_fill(itself, -1e4)], dim=-1)
        right_R = torch.exp(-0.5 * shifts_R.float().square()).to(seen_NVE.device)
        right_VR = right_R * inside_VR
        right_VR = right_VR / right_VR.sum(dim=1, keepdim=True)
        loss = -(right_VR * logits.log_softmax(dim=-1)[..., : len(shifts_R)]).sum(dim=-1).mean()
        found_N = own_NVR.detach().sum(dim=1).argmax(dim=-1)
        return loss, {
            "contrast": loss.detach(),
            "shift_accuracy": (found_N - MAX_SHIFT).abs().le(1).float().mean(),
        }


def same_moment(windows: int, fps: float) -> Tensor:
    """For each window of frames the window of tokens centred nearest to it, [V]."""
    centres_V = (torch.arange(windows) + WINDOW_FRAMES / 2) / fps
    return (centres_V / TOKEN_SECONDS - WINDOW_TOKENS / 2).round().long()


def blot(frames_NTCHW: Tensor, generator: torch.Generator | None) -> Tensor:
    """Frames as a lossy codec might leave them: each clip blurred, smeared over time and noisy by its own shares."""
    if generator is None:
        return frames_NTCHW
    shares = torch.rand(3, len(frames_NTCHW), 1, 1, 1, 1, generator=generator).to(frames_NTCHW)
    blur_N, late_N, noise_N = 0.7 * shares[0], 0.15 * shares[1], 0.12 * shares[2]
    smooth = F.avg_pool2d(frames_NTCHW.flatten(0, 1), 3, 1, 1, count_include_pad=False)
    x = torch.lerp(frames_NTCHW, smooth.view_as(frames_NTCHW), blur_N)
    x = torch.lerp(x, torch.cat([x[:, :1], x[:, :-1]], dim=1), late_N)
    return x + noise_N * torch.randn(x.shape, generator=generator).to(x)


def smear(bands_NLK: Tensor, generator: torch.Generator | None) -> Tensor:
    """Bands as a lossy codec might leave them: each clip louder or softer, and noisy."""
    if generator is None:
        return bands_NLK
    gain_N, noise_N = torch.rand(2, len(bands_NLK), 1, 1, generator=generator).to(bands_NLK)
    noise = torch.randn(bands_NLK.shape, generator=generator).to(bands_NLK)
    return bands_NLK * (0.85 + 0.3 * gain_N) + 0.4 * noise_N * noise
