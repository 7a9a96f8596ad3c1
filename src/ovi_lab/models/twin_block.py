"""A pair of blocks, one of each tower, with the exchange between them (arXiv 2510.01284).

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from ovi_lab.models.tower import Call, Conditions, TowerBlock


class TwinBlock(nn.Module):
    """Block `index` of both towers, with the exchange between them.

    It owns no parameters: the two towers do, under the released checkpoint's names.
    """

    def __init__(self, video: TowerBlock, audio: TowerBlock, index: int) -> None:
        super().__init__()
        self.video = video
        self.audio = audio
        self.index = index

    def forward(
        self,
        v_BLD: Tensor,
        a_BLD: Tensor,
        cv: Conditions,
        ca: Conditions,
        opened: bool = False,
        call: Call | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The video stream and the audio stream after the block; `opened`: they come after self-attention.

        `call` computes them in a way of its own (compiled): `call(block, ...)` for `block.compute(...)`.
        """
        args = (v_BLD, a_BLD, cv.alone(self.index), ca.alone(self.index), opened)
        return self.compute(*args) if call is None else call(self, *args)

    def compute(
        self, v_BLD: Tensor, a_BLD: Tensor, cv: Conditions, ca: Conditions, opened: bool
    ) -> tuple[Tensor, Tensor]:
        """`forward` less its hooks."""
        mv, ma = self.video.modulation(cv.e0), self.audio.modulation(ca.e0)
        if not opened:
            v_BLD = self.video.attend_self(v_BLD, mv, cv)
            a_BLD = self.audio.attend_self(a_BLD, ma, ca)
        # Both read the other's stream as it is after self-attention, so neither sees an echo of itself.
        v_new_BLD = self.video.attend_across(v_BLD, self.video.text_key_value(cv), cv, a_BLD, ca)
        a_new_BLD = self.audio.attend_across(a_BLD, self.audio.text_key_value(ca), ca, v_BLD, cv)
        return self.video.feed_forward(v_new_BLD, mv, cv), self.audio.feed_forward(a_new_BLD, ma, ca)

    def open(self, v_BLD: Tensor, a_BLD: Tensor, cv: Conditions, ca: Conditions) -> tuple[Tensor, Tensor]:
        """Both streams after this block's self-attention; see `TowerBlock.open`."""
        return self.video.open(v_BLD, cv), self.audio.open(a_BLD, ca)
