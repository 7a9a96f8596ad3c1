"""What made the latents of a data set: one encoder a part, and one number of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovi_lab.data.encoders import codec_digests
from ovi_lab.data.index import ShardIndex
from ovi_lab.errors import UserError

_CHANNELS = {"video": (0, 4), "audio": (1, 2), "text": (1, 2)}  # dimension of the channels, and of all


@dataclass
class MadeOf:
    """The encoder and the channels of latents, by part and with the first shard that states them."""

    encoders: dict[str, tuple[str, str]] = field(default_factory=dict)
    channels: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, index: ShardIndex, parts: Sequence[str]) -> None:
        """Adds a shard. Raises UserError where its latents do not match those before it."""
        found = MadeOf()
        for part in parts:
            for encoder in index.encoders.get(part, ()):
                found.encoders[part] = (encoder, str(index.path))
                self.refuse_other(found)
        met: set[tuple[str, tuple[int, ...]]] = set()
        for entry in index.entries:
            for part, shape in (entry.shapes or {}).items():
                if (part, shape) in met:
                    continue
                met.add((part, shape))
                if part in parts and is_whole(part, shape):
                    found.channels[part] = (f"{shape[_CHANNELS[part][0]]} channels", str(index.path))
                    if self.channels.get(part, ("",))[0] != found.channels[part][0]:
                        self.refuse_other(found)

    def as_json(self) -> dict[str, dict[str, list[str]]]:
        """Plain values of which `from_json` makes it again."""
        facts = {"encoders": self.encoders, "channels": self.channels}
        return {kind: {part: list(fact) for part, fact in found.items()} for kind, found in facts.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Mapping[str, Sequence[str]]]) -> MadeOf:
        """Raises KeyError, TypeError, ValueError or AttributeError where the values are no such."""
        found = cls()
        for kind in ("encoders", "channels"):
            for part, (fact, shard) in stored[kind].items():
                getattr(found, kind)[str(part)] = (str(fact), str(shard))
        return found

    def refuse_other(self, other: MadeOf) -> None:
        """Adds what another states; raises UserError where the two do not match."""
        for mine, theirs, how in (
            (self.encoders, other.encoders, "were made by"),
            (self.channels, other.channels, "have"),
        ):
            for part, (fact, shard) in theirs.items():
                known, first = mine.setdefault(part, (fact, shard))
                if known != fact:
                    raise UserError(
                        f"the {part} latents of {shard} {how} {fact}, those of {first} {how} {known}: "
                        "use latents of one encoder"
                    )

    def refuse_codec(self, codec: Path) -> None:
        """Raises UserError where the latents say that another codec than that file, or folder, made them."""
        digests = codec_digests(codec) if self.encoders else {}
        for part, (encoder, shard) in self.encoders.items():
            digest = digests.get(part)
            if digest and digest not in encoder:
                raise UserError(
                    f"data.codec={codec} (sha256:{digest}) did not make the {part} latents of {shard}, "
                    f"{encoder} did: name the codec that they were made by"
                )


def is_whole(part: str, shape: tuple[int, ...]) -> bool:
    """Whether a part's latents have as many dimensions as they must."""
    return len(shape) == _CHANNELS[part][1]
