"""The trained judges of a world in one small file, with where they come from; the three of the ball world.

`weights/ball_judges.safetensors` holds the tensors as `video.*`, `audio.*` and `sync.*`, and as its only
metadata one JSON object: the format, the networks' sizes, and the provenance given to `save_judges` (world,
seeds, steps, measured accuracies). Numbers seen through other weights are another variant of a metric:
`JudgeSet.variant` names the weights.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ovi_eval.ball.networks import AudioJudge, BallSyncNet, VideoJudge
from ovi_eval.common.files import write_whole
from ovi_eval.common.weights import refuse, tensor_faults, tensor_kind
from ovi_eval.errors import UserError

WEIGHTS = Path(__file__).parent / "weights" / "ball_judges.safetensors"
HEADER = "judges"


@dataclass
class JudgeSet(ABC):
    """Judges of a world, among them `sync`, a BallSyncNet: what knows whether picture and sound are in time.

    `sha256` is that of their file. A class names the `file` in which its judges lie in this package, the `format` of
    such files, and the `experiment` of ovi-train that makes them.
    """

    provenance: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    file: ClassVar[Path]
    format: ClassVar[str]
    experiment: ClassVar[str]

    @property
    def variant(self) -> str:
        """Names these weights in results: metrics seen through other judges are not comparable."""
        return f"judges {self.sha256[:12]}" if self.sha256 else "judges not saved"

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """The networks by the prefix of their tensors."""


@dataclass
class Judges(JudgeSet):
    """The ball world's: what sees, what hears, what knows whether both are in time."""

    video: VideoJudge = field(default_factory=VideoJudge)
    audio: AudioJudge = field(default_factory=AudioJudge)
    sync: BallSyncNet = field(default_factory=BallSyncNet)

    file = WEIGHTS
    format = "ovi_eval.ball_judges/1"
    experiment = "judges"

    def parts(self) -> dict[str, nn.Module]:
        return {"video": self.video, "audio": self.audio, "sync": self.sync}


AnyJudges = TypeVar("AnyJudges", bound=JudgeSet)


def save_judges(
    judges: AnyJudges, provenance: Mapping[str, Any], path: str | Path | None = None
) -> AnyJudges:
    """Writes the judges, whole or not at all, and gives them back with the file's sha256.

    `path`: None puts them into this package, for everybody's scores. `provenance` is plain JSON values: the
    world and its settings, seeds, steps, what accuracy was measured on which clips. The same judges and
    provenance give the same bytes. Raises UserError where a tensor is not finite or the place cannot be
    written.
    """
    path = Path(path or judges.file)
    tensors = _tensors(judges)
    _check(tensors, tensors, path)
    try:
        header = json.dumps(
            {"format": judges.format, "provenance": dict(provenance)}, allow_nan=False, sort_keys=True
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: provenance of judges must be plain finite JSON values ({error})") from error
    data = save(tensors, metadata={HEADER: header})
    write_whole(path, data)
    return replace(judges, provenance=dict(provenance), sha256=hashlib.sha256(data).hexdigest())


def load_judges(path: str | Path | None = None, kind: type[AnyJudges] = Judges) -> AnyJudges:  # type: ignore[assignment]
    """Reads judges of a kind, in evaluation mode and without gradients; by default those of this package.

    Raises UserError naming the file where it is missing, broken or of another format, and the tensors that
    are missing, unknown, of another shape or not finite.
    """
    path = Path(path or kind.file)
    if not path.is_file():
        raise UserError(
            f"{path}: no judges there; train them with `ovi-train experiment={kind.experiment}` "
            "or reinstall the package"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: is no readable safetensors file ({error}); fetch or train it again"
        ) from error
    if not isinstance(header, dict) or header.get("format") != kind.format:
        found = header.get("format") if isinstance(header, dict) else header
        raise UserError(f'{path}: format is {found!r}, this version reads "{kind.format}"')
    judges = kind(provenance=dict(header.get("provenance", {})))
    _check(_tensors(judges), tensors, path)
    for prefix, part in judges.parts().items():
        part.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in part.state_dict()})
        part.eval().requires_grad_(False)
    judges.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return judges


def _tensors(judges: JudgeSet) -> dict[str, Tensor]:
    """All tensors by their names in the file."""
    return {
        f"{prefix}.{name}": tensor.detach().cpu().contiguous()
        for prefix, part in judges.parts().items()
        for name, tensor in part.state_dict().items()
    }


def _check(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    faults = tensor_faults({name: tensor_kind(tensor) for name, tensor in wanted.items()}, tensors)
    refuse(faults, f"{path}: unusable judges", "train them again")
