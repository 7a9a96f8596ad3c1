"""I3D's features of a clip's frames, once for each of FVD's variants (see `ovi_eval.backbones.i3d`).

All frames of the clip are seen, at its own rate. Sound plays no part, so a silent clip counts.

Shapes: T frames.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ovi_eval.backbones import i3d
from ovi_eval.clips.items import Item
from ovi_eval.common.needs import find_weights
from ovi_eval.common.processes import CPU
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features

CROPPED = "all frames, short side to 224 bilinear, centre cut out, [-1, 1]"
STRETCHED = "all frames, both sides to 224 bilinear, [-1, 1]"


class I3DFeatures(Extractor):
    """`features` [400] float32, the Kinetics logits. `choices` names the variant."""

    needs = (i3d.FILE,)
    choices: ClassVar[str]

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        loaded = i3d.load_i3d(find_weights(i3d.FILE, self.name), self.choices)
        self.network = loaded.network.to(device)
        self.variant = f"{self.choices}, {loaded.variant}"
        self.weights = {loaded.path.name: loaded.sha256}

    def load(self, item: Item) -> Tensor:
        """What I3D sees, [1, 3, T, 224, 224] float32. Raises UserError for fewer frames than FVD needs."""
        frames_THWC = item.video().constant().frames_THWC
        if len(frames_THWC) < i3d.SHORTEST:
            raise UserError(f"it has {len(frames_THWC)} frames, FVD needs {i3d.SHORTEST}")
        return i3d.preprocess(frames_THWC[None], i3d.find_variant(self.choices).fit)

    def run(self, loaded: Tensor) -> Features:
        return {"features": i3d.logits_of(self.network, loaded)[0]}


class StyleganVFeatures(I3DFeatures):
    """I3D as StyleGAN-V's code has it."""

    name, choices, preprocessing = "i3d_stylegan_v", "stylegan-v", CROPPED


class VideoGPTFeatures(I3DFeatures):
    """I3D as VideoGPT's code has it."""

    name, choices, preprocessing = "i3d_videogpt", "videogpt", CROPPED


class PytorchI3DFeatures(I3DFeatures):
    """I3D as pytorch-i3d has it, with its eps of 1e-3."""

    name, choices, preprocessing = "i3d_pytorch_i3d", "pytorch-i3d", CROPPED


class CdFvdFeatures(I3DFeatures):
    """I3D of whole frames drawn to 224x224, as content-debiased FVD's code prepares them."""

    name, choices, preprocessing = "i3d_cd_fvd", "cd-fvd", STRETCHED
