"""The settings of sampling: solver, steps, guidance, and what is done once instead of in every pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ovi_lab.common.values import check_settings
from ovi_lab.models.config import Modality


@dataclass(frozen=True)
class SamplerSettings:
    """How latents are integrated from noise; the defaults suit the ball world, `sampler=ovi` the released model.

    Raises:
        UserError: a guidance is no finite number.
    """

    solver: str = "unipc"
    steps: int = 12
    shift: float = 5.0
    video_guidance: float = 1.0
    """1 is the model's own prediction, without a negative pass."""
    audio_guidance: float = 1.0
    given_guidance: float = 1.0
    """How strongly what is generated follows what is given of the other modality: 1 is the model's own prediction,
    without a pass of that modality alone."""
    negative_video: str = ""
    negative_audio: str = ""
    skip_layers: Sequence[int] = field(default_factory=tuple)
    """Blocks left out in the negative pass (skip-layer guidance)."""
    batch_passes: bool = True
    """Run both passes of guidance as one batch where they need the same blocks: more memory, less time."""
    cache_text: bool = True
    """Embed texts, and compute every block's keys and values of them, once a clip instead of in every pass (2 x
    blocks x text_len x dim numbers a text and tower are kept)."""
    cache_given: bool = True
    """Compute once a clip what is the same at every step of a modality that is given wholly (see `GivenContext`)."""

    def __post_init__(self) -> None:
        names = ("video_guidance", "audio_guidance", "given_guidance")
        check_settings("sampler", {name: getattr(self, name) for name in names})

    def guidance(self, modality: Modality) -> float:
        """The strength of one modality's guidance."""
        return self.video_guidance if modality == "video" else self.audio_guidance
