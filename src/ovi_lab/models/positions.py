"""The rotation of each modality's tokens: video by its grid, audio at its scaled times."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ovi_lab.models.config import Modality, RopeConfig
from ovi_lab.models.given import Given
from ovi_lab.models.rope import RopeTables
from ovi_lab.models.tower import Tokens


def rotations(
    tables: RopeTables,
    tokens: Mapping[Modality, Tokens],
    config: RopeConfig,
    given: Given,
    fixed: float | None = None,
) -> dict[Modality, Tensor]:
    """The rotation table of each modality, see `RopeTables`.

    Args:
        tables: which keeps them.
        tokens: of the batch.
        config: how audio positions are scaled.
        given: which clips lack their picture, so that their sound has the trained factor.
        fixed: a factor of audio positions instead of the trained one.
    """
    found: dict[Modality, Tensor] = {}
    device = next(iter(tokens.values())).x.device
    if "video" in tokens:
        found["video"] = tables.video(tokens["video"].grids, device)
    if "audio" in tokens:
        lengths = [n for n, _, _ in tokens["audio"].grids]
        factors: list[float] | Tensor
        if fixed is not None:
            factors = [fixed] * len(lengths)
        elif (learned := tokens["audio"].rope_scale) is not None:
            factors = learned
        elif config.mode == "clip_ratio" and "video" in tokens:
            seen = [True] * len(lengths) if given.no_video is None else ~given.no_video
            factors = [
                f / n if present else config.factor
                for present, (f, _, _), n in zip(seen, tokens["video"].grids, lengths, strict=True)
            ]
        else:
            factors = [config.factor] * len(lengths)
        found["audio"] = tables.audio(lengths, factors, device)
    return found
