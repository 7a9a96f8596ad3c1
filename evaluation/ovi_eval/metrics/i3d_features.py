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
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import find_weights
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
        self.network = self.take(loaded)
        self.variant = f"{self.choices}, {loaded.variant}"

    def load(self, item: Item) -> Tensor:
        """What I3D sees, [1, 3, T, 224, 224] float32. Raises UserError for fewer frames than FVD needs."""
        frames_THWC = item.video().constant().frames_THWC
        if len(frames_THWC) < i3d.SHORTEST:
            raise UserError(f"it has {len(frames_THWC)} frames, FVD needs {i3d.SHORTEST}")
        return i3d.preprocess(frames_THWC[None], i3d.VARIANTS[self.choices].fit)

    def run(self, loaded: Tensor) -> Features:
        return {"features": i3d.logits_of(self.network, loaded)[0]}


FVD: dict[str, type[I3DFeatures]] = {
    f"fvd_{name}": type(
        f"i3d_{name}",
        (I3DFeatures,),
        {"name": f"i3d_{name}", "choices": name.replace("_", "-"), "preprocessing": preprocessing},
    )
    for name, preprocessing in (
        ("stylegan_v", CROPPED),
        ("videogpt", CROPPED),
        ("pytorch_i3d", CROPPED),
        ("cd_fvd", STRETCHED),
    )
}
"""I3D with the choices of each implementation, by the name of its distance."""
