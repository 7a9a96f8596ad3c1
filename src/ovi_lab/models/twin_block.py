"""A pair of blocks, one of each tower, with the exchange between them (arXiv 2510.01284).

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from ovi_lab.errors import UserError
from ovi_lab.models.config import Modality
from ovi_lab.models.some_clips import SomeClips
from ovi_lab.models.tower import Call, Conditions, TowerBlock

Wanted = tuple[SomeClips | None, SomeClips | None]
"""Clips of video and of audio; None for all."""
NONE_LEFT_OUT: Wanted = (None, None)
Streams = tuple[Tensor | None, Tensor | None]
"""Of video and of audio; None for one that a batch lacks, or whose work on this block is kept."""


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
        v_BLD: Tensor | None,
        a_BLD: Tensor | None,
        cv: Conditions | None,
        ca: Conditions | None,
        opened: tuple[Modality, ...] = (),
        unread: Modality | None = None,
        wanted: Wanted = NONE_LEFT_OUT,
        call: Call | None = None,
    ) -> Streams:
        """The video stream and the audio stream after the block; None for one that does not come in.

        `opened`: these come after self-attention. `unread`: nothing reads this stream after the block, which leaves it
        as it is after self-attention. `wanted`: the clips of each stream that anything reads after the block; there are
        no others in what it gives.

        `call` computes them in a way of its own (compiled): `call(block, ...)` for `block.compute(...)`.
        """
        own_v = None if cv is None else cv.alone(self.index)
        own_a = None if ca is None else ca.alone(self.index)
        args = (v_BLD, a_BLD, own_v, own_a, opened, unread, wanted)
        return self.compute(*args) if call is None else call(self, *args)

    def compute(
        self,
        v_BLD: Tensor | None,
        a_BLD: Tensor | None,
        cv: Conditions | None,
        ca: Conditions | None,
        opened: tuple[Modality, ...],
        unread: Modality | None,
        wanted: Wanted,
    ) -> Streams:
        """`forward` less its hooks."""
        mv = None if cv is None or v_BLD is None else self.video.modulation(cv.e0)
        ma = None if ca is None or a_BLD is None else self.audio.modulation(ca.e0)
        if "video" not in opened:
            v_BLD = _attend_self(self.video, v_BLD, mv, cv)
        if "audio" not in opened:
            a_BLD = _attend_self(self.audio, a_BLD, ma, ca)
        # Both read the other's stream as it is after self-attention, so neither sees an echo of itself.
        v_clips, a_clips = wanted
        v_new_BLD = v_BLD if unread == "video" else _finish(self.video, v_BLD, mv, cv, a_BLD, ca, v_clips)
        a_new_BLD = a_BLD if unread == "audio" else _finish(self.audio, a_BLD, ma, ca, v_BLD, cv, a_clips)
        return v_new_BLD, a_new_BLD

    def open(
        self, v_BLD: Tensor | None, a_BLD: Tensor | None, cv: Conditions | None, ca: Conditions | None
    ) -> Streams:
        """Both streams after this block's self-attention; see `TowerBlock.open`."""
        return (
            None if v_BLD is None or cv is None else self.video.open(v_BLD, cv),
            None if a_BLD is None or ca is None else self.audio.open(a_BLD, ca),
        )


def remaining_blocks(count: int, skip_layers: Collection[int], first_skippable: bool = True) -> list[int]:
    """Which of `count` blocks run where some are left out; UserError for one that is not there.

    Without `first_skippable` block 0 runs in any case.
    """
    for index in skip_layers:
        if not 0 <= index < count:
            raise UserError(f"skip_layers names block {index}; this model has blocks 0 to {count - 1}")
    return [i for i in range(count) if i not in skip_layers or (i == 0 and not first_skippable)]


def _attend_self(
    block: TowerBlock, x_BLD: Tensor | None, m: Sequence[Tensor] | None, c: Conditions | None
) -> Tensor | None:
    return None if x_BLD is None or m is None or c is None else block.attend_self(x_BLD, m, c)


def _finish(
    block: TowerBlock,
    x_BLD: Tensor | None,
    m: Sequence[Tensor] | None,
    c: Conditions | None,
    other_BMD: Tensor | None,
    other: Conditions | None,
    clips: SomeClips | None,
) -> Tensor | None:
    """A stream after self-attention to the end of its block, of all clips or of these."""
    if x_BLD is None or m is None or c is None:
        return None
    if clips is not None:
        # The vectors that are there, not the modulation anew: under ZeRO 3 all processes call the same modules, each as
        # often as the others.
        x_BLD, c = clips.take(x_BLD), c.of_clips(clips)
        m = [*m[:3], *map(clips.take, m[3:])]
        if other_BMD is not None and other is not None:
            other_BMD, other = clips.take(other_BMD), other.of_clips(clips)
    x_BLD = block.attend_across(x_BLD, block.text_key_value(c), c, other_BMD, other)
    return block.feed_forward(x_BLD, m, c)
