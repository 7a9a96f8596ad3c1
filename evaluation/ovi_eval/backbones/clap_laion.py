"""CLAP through laion_clap's own code, for whoever has it: the values are those of transformers' ClapModel.

laion_clap needs torchvision and, when it is imported, tokenizers from Hugging Face's hub, so that it imports on few
machines. Its weights are read here, as plain tensors, and not by its own loader, which runs what is in the file.
"""

from collections.abc import Mapping
from types import ModuleType

from torch import Tensor

from ovi_eval.backbones.clap import Towers
from ovi_eval.backbones.clap_keys import Size
from ovi_eval.errors import UserError


def import_laion() -> ModuleType:
    """The package laion_clap. Raises UserError that says why it does not import."""
    try:
        import laion_clap
    except Exception as error:  # it reaches for other packages and for the hub, and fails in many ways
        raise UserError(
            f"CLAP's route laion needs laion_clap, which does not import here {_why(error)}"
        ) from error
    return laion_clap


def _why(error: Exception) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
    return (
        f"({first}); pip install 'ovi-lab[clap]' torchvision where Hugging Face's hub can be reached, "
        "or take the route transformers, which gives the same values"
    )


class LaionTowers(Towers):
    """The towers of laion_clap with a checkpoint's tensors, which go by laion_clap's names.

    Raises UserError where laion_clap does not import or cannot be built.
    """

    def __init__(self, tensors: Mapping[str, Tensor], size: Size) -> None:
        super().__init__()
        package = import_laion()
        try:
            self.module = package.CLAP_Module(enable_fusion=False, device="cpu", amodel=size.name)
        except Exception as error:  # it fetches RoBERTa's configuration and tokenizer from the hub
            raise UserError(f"laion_clap cannot build {size.name} here {_why(error)}") from error
        self.module.model.load_state_dict(dict(tensors))

    def sounds(self, waves_NP: Tensor) -> Tensor:
        return self.module.get_audio_embedding_from_data(waves_NP, use_tensor=True)

    def texts(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        tokens = {"input_ids": ids_NL, "attention_mask": mask_NL}
        # It asks for strings and a tokenizer; ours has done its work already.
        return self.module.get_text_embedding([], tokenizer=lambda _: tokens, use_tensor=True)
