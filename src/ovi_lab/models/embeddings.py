"""Embeddings of latents, text and time, and the head that turns tokens back into latents.

Shapes: B batch, C latent channels, F frames, H rows, W columns (latent cells), L tokens, N text tokens,
D width, E text width, S spans of a clip with a timestep each, P values of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ovi_lab.errors import UserError
from ovi_lab.models.clean_tokens import CleanTokens
from ovi_lab.models.config import TowerConfig
from ovi_lab.models.norms import AdaptiveLayerNorm
from ovi_lab.models.rope import Grid

Latents = Tensor | Sequence[Tensor]
"""A batch of one shape as one tensor, or a list of clips whose shapes may differ."""


# ---------------------------------------------------------------------------------------------- latents in
def video_patches(video: Latents, config: TowerConfig) -> tuple[Tensor, list[Grid]]:
    """Patches [B, L, P] (channels, then cells; zero-padded to the longest clip), each clip's token grid."""
    patch = config.patch_size or (1, 2, 2)
    if isinstance(video, Tensor):
        _check("video", video, "[B, C, F, H, W]", config)
        patches_BFHWP = _cut(video, patch)
        _, f, h, w, _ = patches_BFHWP.shape
        return patches_BFHWP.flatten(1, 3), [(f, h, w)] * video.shape[0]
    for clip in video:
        _check("a video clip", clip, "[C, F, H, W]", config)
    clips_FHWP = [_cut(clip[None], patch)[0] for clip in video]
    grids = [(f, h, w) for f, h, w, _ in (patches.shape for patches in clips_FHWP)]
    return pad_sequence([patches.flatten(0, 2) for patches in clips_FHWP], batch_first=True), grids


def _cut(video_BCFHW: Tensor, patch: Sequence[int]) -> Tensor:
    """[B, F', H', W', C * pf * ph * pw], a patch's values in the order of a convolution's weight."""
    B, C, *sizes = video_BCFHW.shape
    (f, h, w), (pf, ph, pw) = [size // step for size, step in zip(sizes, patch, strict=True)], patch
    cells = video_BCFHW.reshape(B, C, f, pf, h, ph, w, pw)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def audio_sequence(audio: Latents, config: TowerConfig) -> tuple[Tensor, list[int]]:
    """Latents [B, L, C], zero-padded to the longest clip, and each clip's length."""
    if isinstance(audio, Tensor):
        _check("audio", audio, "[B, L, C]", config)
        return audio, [audio.shape[1]] * audio.shape[0]
    for clip in audio:
        _check("an audio clip", clip, "[L, C]", config)
    return pad_sequence(list(audio), batch_first=True), [clip.shape[0] for clip in audio]


def _check(what: str, latents: Tensor, form: str, config: TowerConfig) -> None:
    """Raises UserError unless latents have the axes of `form`, such as [B, L, C], and the tower's channels."""
    axes = form.strip("[]").split(", ")
    if latents.dim() != len(axes):
        raise UserError(f"{what} has shape {list(latents.shape)}; expected {form}")
    check_clip(latents.shape[1:] if axes[0] == "B" else latents.shape, config)


def check_clip(shape: Sequence[int | None], config: TowerConfig) -> None:
    """Raises UserError unless a tower takes latents [C, F, H, W] or [L, C] of this shape; None: of any size."""
    modality, video = config.modality, config.modality == "video"
    channels = shape[0] if video else shape[-1]
    if channels not in (None, config.in_dim):
        raise UserError(
            f"{modality} latents have {channels} channels, this model's {modality} tower takes {config.in_dim}; "
            f"use latents of the codec it was configured for, or set model.{modality}.in_dim={channels}"
        )
    patch = config.patch_size or (1, 2, 2)
    for name, size, step in zip(
        ("frames", "rows", "columns"), shape[1:] if video else (), patch, strict=False
    ):
        if size is not None and size % step:
            raise UserError(
                f"video has {size} latent {name}, which do not divide into patches of {step}; crop or pad the clips, "
                "or set model.video.patch_size"
            )


class VideoPatchEmbedding(nn.Module):
    """A convolution whose stride is its kernel, applied as what it is: one linear map of every patch."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.dim, config.in_dim, *(config.patch_size or (1, 2, 2))))
        self.bias = nn.Parameter(torch.empty(config.dim))

    def forward(self, patches_BLP: Tensor) -> Tensor:
        """[B, L, D]."""
        return F.linear(patches_BLP, self.weight.flatten(1), self.bias)


class SequenceConv(nn.Conv1d):
    """A convolution over [B, L, C] that keeps the length."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """[B, L, out_channels]."""
        return super().forward(x_BLC.transpose(1, 2)).transpose(1, 2)


class GatedConv(nn.Module):
    """w2(SiLU(w1 x) * w3 x), every map a convolution along the sequence."""

    def __init__(self, dim: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.w1 = SequenceConv(dim, hidden, kernel, bias=False)
        self.w2 = SequenceConv(hidden, dim, kernel, bias=False)
        self.w3 = SequenceConv(dim, hidden, kernel, bias=False)

    def forward(self, x_BLD: Tensor, real_BL1: Tensor | None) -> Tensor:
        """[B, L, D]; with `real_BL1`, what lies past a clip's end is zero for the last convolution."""
        hidden = F.silu(self.w1(x_BLD)) * self.w3(x_BLD)
        return self.w2(hidden if real_BL1 is None else hidden * real_BL1)


class AudioPatchEmbedding(nn.Sequential):
    """Convolution, SiLU, gated convolution; the first alone where the configured hidden width is 0.

    Convolutions look past a clip's end: in a padded batch the mask keeps every clip what it is alone.
    """

    def __init__(self, config: TowerConfig) -> None:
        kernel = config.patch_kernel_size or 7
        layers: list[nn.Module] = [SequenceConv(config.in_dim, config.dim, kernel, bias=True)]
        if config.audio_patch_hidden:
            layers += [nn.SiLU(), GatedConv(config.dim, config.audio_patch_hidden, kernel)]
        super().__init__(*layers)

    def forward(self, x_BLC: Tensor, real_BL1: Tensor | None = None) -> Tensor:
        """[B, L, D]; `real_BL1` is True inside the clips, None where the batch has no padding."""
        if len(self) == 1:
            return self[0](x_BLC)
        conv, activation, gated = self
        x_BLD = activation(conv(x_BLC))
        return gated(x_BLD if real_BL1 is None else x_BLD * real_BL1, real_BL1)


# ------------------------------------------------------------------------------------------- time and text
class TimeEmbedding(nn.Sequential):
    """Linear, SiLU, Linear of the sinusoidal embedding of t (Ho et al., arXiv 2006.11239)."""

    def __init__(self, freq_dim: int, dim: int) -> None:
        first = nn.Linear(freq_dim, dim)
        super().__init__(first, nn.SiLU(), nn.Linear(dim, dim))
        self.frequencies = freq_dim // 2

    def forward(self, t: Tensor) -> Tensor:
        """t of any shape, 0 to 1000, to [..., D]; angles are computed in float64."""
        index = torch.arange(self.frequencies, dtype=torch.float64, device=t.device)
        angles = t.to(torch.float64)[..., None] * 10_000.0 ** (-index / self.frequencies)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return super().forward(waves.to(next(self.parameters()).dtype))  # by iteration, as `Tower.dtype`


def text_batch(text: Latents, text_len: int, text_dim: int) -> Tensor:
    """Texts [B, text_len, E], zero-padded; the padding is embedded and attended to like any token.

    UserError for a text that is longer than `text_len` or of another width.
    """
    for item in [text] if isinstance(text, Tensor) else text:
        if item.shape[-1] != text_dim:
            raise UserError(
                f"text embeddings have {item.shape[-1]} channels, this tower takes {text_dim}; "
                "use the text encoder it was configured for"
            )
        if item.shape[-2] > text_len:
            raise UserError(
                f"a text has {item.shape[-2]} tokens, this tower takes at most {text_len}; cut it"
            )
    if isinstance(text, Tensor):
        if text.dim() != 3:
            raise UserError(f"text has shape {list(text.shape)}; expected [B, N, E]")
        padded = text
    else:
        padded = pad_sequence(list(text), batch_first=True)
    return F.pad(padded, (0, 0, 0, text_len - padded.shape[1]))


def merged_text_batch(
    text: Latents, text_len: int, text_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Texts [B, N, E] as of `text_batch` with their padding merged, and the bias of the products with their keys.

    Tokens of padding are zero before the text embedding and equal after it, so that softmax attention to c of
    them is attention to one whose product is raised by log c. N is the longest text's tokens and two: one
    number of type `dtype` is too coarse for log c, so a second key carries the rest of the weight. The second
    result is [B, 1, 1, N] of `dtype`: 0 at a text's own tokens, minus infinity at what is not there.
    """
    padded_BNE = text_batch(text, text_len, text_dim)
    tokens = [len(item) for item in text]
    longest = max(tokens)
    padded_BNE = padded_BNE[:, :longest]
    bias_BN = torch.full((len(tokens), longest + 2), -torch.inf, dtype=torch.float64)
    for row, n in zip(bias_BN, tokens, strict=True):
        count = text_len - n
        row[:n] = 0
        if count:
            # A little less than log c, whatever the rounding to `dtype`; the second key has what is missing.
            row[n] = (math.log(count) * (1 - 2**-7)) if count > 1 else 0.0
            row[n] = row[n].to(dtype)
            row[n + 1] = torch.log((count - row[n].exp()).clamp_min(0))
    bias = bias_BN.to(dtype)[:, None, None].to(padded_BNE.device)
    return F.pad(padded_BNE, (0, 0, 0, 2)), bias


# --------------------------------------------------------------------------------------------- latents out
class Head(nn.Module):
    """Normalisation modulated by the timestep, then a linear map to a patch's latent values."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        cells = math.prod(config.patch_size or (1,))
        self.norm = AdaptiveLayerNorm(config.eps)
        self.head = nn.Linear(config.dim, cells * config.out_channels)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim))

    def forward(self, x_BLD: Tensor, e_BSD: Tensor, clean: CleanTokens | None) -> Tensor:
        """[B, L, cells * C]."""
        shift, scale = (e_BSD[:, :, None] + self.modulation).unbind(dim=2)
        return self.head(self.norm(x_BLD, shift, scale, clean))


def join_patches(out_BLP: Tensor, grid: Grid, patch: Sequence[int]) -> Tensor:
    """[B, C, F, H, W] of tokens [B, F' H' W', pf ph pw C] of one grid."""
    B = out_BLP.shape[0]
    cells = out_BLP.view(B, *grid, *patch, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return cells.flatten(6, 7).flatten(4, 5).flatten(2, 3)
