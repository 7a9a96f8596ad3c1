"""One block of both towers, with the exchange between them.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from ovi_lab.models.tower import Conditions, TowerBlock


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
        self, v_BLD: Tensor, a_BLD: Tensor, cv: Conditions, ca: Conditions, opened: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The video stream and the audio stream after the block; `opened`: they come after self-attention."""
        mv, ma = self.video.modulation(cv.e0), self.audio.modulation(ca.e0)
        if not opened:
            v_BLD = self.video.attend_self(v_BLD, mv, cv)
            a_BLD = self.audio.attend_self(a_BLD, ma, ca)
        # Both read the other's stream as it is after self-attention, so neither sees an echo of itself.
        video_text = self.video.text_key_value(cv, self.index)
        audio_text = self.audio.text_key_value(ca, self.index)
        v_new_BLD = self.video.attend_across(v_BLD, video_text, cv, a_BLD, ca)
        a_new_BLD = self.audio.attend_across(a_BLD, audio_text, ca, v_BLD, cv)
        return self.video.feed_forward(v_new_BLD, mv, cv), self.audio.feed_forward(a_new_BLD, ma, ca)
