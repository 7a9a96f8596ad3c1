"""The timestep of every token: a clip's own, and 0 where the clean latent is given.

Shapes: B clips, T distinct timesteps of a clip, L tokens, F token frames, S spans with one timestep each, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.models.clean_tokens import CleanTokens
from ovi_lab.models.config import Modality
from ovi_lab.models.given import Given, Mask, check_mask
from ovi_lab.models.norms import per_frame
from ovi_lab.models.rope import KeptTables, from_host
from ovi_lab.models.tower import Tokens, Tower, token_mask

FRAME_TOKENS = 16
"""Tokens of a frame from which on one vector a frame costs a CPU less than one a token: below, loops over so few of
them cost more than looking the vectors up."""


class TokenTimes:
    """Time embeddings of a pass over some clips, and the masks that they need; masks are kept for the next pass."""

    def __init__(self) -> None:
        self._masks: KeptTables[Tensor] = KeptTables(capacity=8)
        self._clean: KeptTables[CleanTokens] = KeptTables(capacity=8)

    def embed(
        self, tower: Tower, tokens: Tokens, t_BT: Tensor, given: Given, by_frame: bool
    ) -> tuple[Tensor, Tensor, CleanTokens | None]:
        """e, its projection e0, and the clean tokens, as `Conditions` has them.

        Args:
            tower: of the tokens.
            tokens: whose times are asked.
            t_BT: the clips' timesteps, T = 1.
            given: what stands at t = 0 instead.
            by_frame: whether clips of one shape may have one vector a frame, instead of one a token.
        """
        device = tokens.x.device
        clean_BF = clean_frames(tower, tokens, given)
        if clean_BF is None:
            return *tower.embed_time(t_BT), None
        if clean_BF.shape[1] == 1:  # whole clips: still one timestep each
            return *tower.embed_time(torch.where(self._kept(clean_BF, device), 0.0, t_BT)), None
        length = tokens.x.shape[1]
        least = FRAME_TOKENS if tokens.x.is_cpu else 2
        by_frame = by_frame and len(set(tokens.grids)) == 1 and length >= least * clean_BF.shape[1]
        e, e0 = tower.embed_time(torch.cat([torch.zeros_like(t_BT), t_BT], dim=1))
        if by_frame and bool((clean_BF == clean_BF[:1]).all()):
            clean_1F1 = self._kept(clean_BF[:1], device)[..., None]
            return per_frame(e, clean_1F1), per_frame(e0, clean_1F1[..., None]), None
        spans_BS = clean_BF if by_frame else token_mask(clean_BF, tokens.grids, length)
        key = (spans_BS.shape, spans_BS.tobytes(), device, e0.dtype)
        return e, e0, self._clean.get(key, lambda: CleanTokens.of(spans_BS, device, e0.dtype))

    def present(self, modality: Modality, tokens: Tokens, given: Given) -> Tensor | None:
        """[B, 1, 1, 1], 0 at clips that lack the modality and 1 at others; None where no clip lacks it."""
        lacking_B = given.lacking(modality)
        if lacking_B is None or not lacking_B.any():
            return None
        if len(lacking_B) != len(tokens.grids):
            raise UserError(
                f"which clips lack {modality} is marked for {len(lacking_B)} clips; expected {len(tokens.grids)}"
            )
        return self._kept(~lacking_B, tokens.x.device).to(tokens.x.dtype)[:, None, None, None]

    def _kept(self, mask: Mask, device: torch.device) -> Tensor:
        key = ("mask", mask.shape, mask.tobytes(), device)
        return self._masks.get(key, lambda: from_host(mask, device))


def clean_frames(tower: Tower, tokens: Tokens, given: Given) -> Mask | None:
    """What is given by token frame: bool [B, F]; [B, 1] where each clip is given wholly or not at all; None if nothing.

    Raises UserError where the mask is of another shape or a patch of several frames is given in part.
    """
    modality = tower.config.modality
    mask_BN = given.mask(modality)
    if mask_BN is None:
        return None
    given_B = mask_BN.sum(axis=1)
    if not given_B.any():
        return None
    patch = (tower.config.patch_size or (1,))[0]
    lengths = tower.frames(tokens)
    check_mask(mask_BN, modality, lengths)
    clean_BF = mask_BN
    if patch > 1:
        patches_BFP = mask_BN.reshape(len(mask_BN), -1, patch)
        clean_BF = patches_BFP.all(axis=-1)
        if not np.array_equal(clean_BF, patches_BFP.any(axis=-1)):
            raise UserError(f"a part of a patch of {patch} latent frames is given; give all of it or none")
    whole_B: Mask = given_B == np.asarray(lengths)
    return whole_B[:, None] if (whole_B == (given_B > 0)).all() else clean_BF
