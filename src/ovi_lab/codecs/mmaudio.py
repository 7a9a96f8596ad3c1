"""MMAudio's 16 kHz sound codec: waves to log mel spectra to latents, and back through BigVGAN.

The networks are diffusers' MMAudioVAE and MMAudioVocoder; this file holds their sizes, the conversion of
the published files, and the way between waves and latents (the posterior mean, not rescaled).

Shape suffixes: B clips, S samples, L tokens, C channels, M mel bands, N mel frames (256 samples each, two a
token).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ovi_eval.clips.clip import fit_length
from ovi_eval.common.shapes import on_meta
from ovi_lab.codecs.base import check_latents
from ovi_lab.common.fields import CLOSED, PlainSettings, Width, Widths
from ovi_lab.errors import UserError
from ovi_lab.weights.torch_files import load_named, read_tensors

SAMPLE_RATE, MEL_HOP, MEL_WINDOW = 16000, 256, 1024

# Names of a weight's length and direction under the two ways torch has had of splitting them.
_SPLIT = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


@dataclass(frozen=True, config=CLOSED)
class MMAudioConfig(PlainSettings):
    """Sizes of both networks; the defaults are the published ones (171.7 M and 112.2 M parameters)."""

    title = "the MMAudio codec's configuration"

    mel_bands: Width = 80
    channels: Width = 20
    hidden: Width = 384
    multipliers: Widths = (1, 2, 4)
    vocoder_channels: Width = 1536
    vocoder_rates: Widths = (4, 4, 2, 2, 2, 2)
    vocoder_kernels: Widths = (8, 8, 4, 4, 4, 4)

    def __post_init__(self) -> None:
        if len(self.vocoder_rates) != len(self.vocoder_kernels):
            raise UserError(
                f"the vocoder has {len(self.vocoder_rates)} rates and {len(self.vocoder_kernels)} kernels: "
                "expected as many of the one as of the other"
            )


def build_vae(config: MMAudioConfig) -> Any:
    """Encoder and decoder between mel spectra and latents, on the meta device."""
    import diffusers

    with on_meta():
        network: Any = diffusers.MMAudioVAE(
            mel_bins=config.mel_bands,
            latent_channels=config.channels,
            hidden_channels=config.hidden,
            channel_multipliers=config.multipliers,
            sample_rate=SAMPLE_RATE,
            n_fft=MEL_WINDOW,
            hop_length=MEL_HOP,
        )
    return network.vae


def build_vocoder(config: MMAudioConfig, device: str = "meta") -> Any:
    """Mel spectra to waves, without values on the meta device; ends as the 16 kHz BigVGAN does."""
    import diffusers

    with torch.device(device):
        vocoder: Any = diffusers.MMAudioVocoder(
            num_mels=config.mel_bands,
            upsample_initial_channel=config.vocoder_channels,
            upsample_rates=config.vocoder_rates,
            upsample_kernel_sizes=config.vocoder_kernels,
        )
        # diffusers' is the second version, whose last convolution has no bias and which clips instead of tanh
        last = vocoder.conv_post
        with_bias = nn.Conv1d(last.in_channels, last.out_channels, last.kernel_size, padding=last.padding)
        vocoder.conv_post = nn.Sequential(with_bias, nn.Tanh())
    return vocoder


def vocoder_name(name: str) -> str:
    """Our vocoder's name for a tensor of the published file, after `joined_weights`."""
    return name.replace("conv_post.", "conv_post.0.") if name.startswith("conv_post.") else name


def normalised_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's weights as they are used: each filter w / (rms(w) + 1e-4) / sqrt(its size).

    The published file holds them as they were trained, where that is done in every forward pass (Karras et
    al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", appendix B).
    """
    done = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith(("encoder.", "decoder.")) and name.endswith(".weight") and tensor.ndim == 3:
            weight = tensor.float()
            size = weight[0].numel()
            length = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
            done[name] = weight / (1e-4 + length / math.sqrt(size)) / math.sqrt(size)
    return done


def joined_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights from their length and direction, g v / |v| with the norm over all but the first dimension."""
    done = dict(tensors)
    for length_end, direction_end in _SPLIT:
        for name in [n for n in tensors if n.endswith(length_end)]:
            stem = name.removesuffix(length_end)
            if stem + direction_end in done:
                length, direction = done.pop(name).float(), done.pop(stem + direction_end).float()
                done[f"{stem}.weight"] = torch._weight_norm(direction, length, 0)
    return done


class MMAudioCodec:
    """Frozen sound codec: mono waves at 16 kHz, 512 samples a token.

    Args:
        vae: loaded, from `build_vae`.
        vocoder: loaded, from `build_vocoder`.
        configuration: their sizes.
    """

    kind = "mmaudio"
    sample_rate = SAMPLE_RATE
    token_samples = 2 * MEL_HOP

    def __init__(self, vae: Any, vocoder: Any, configuration: MMAudioConfig) -> None:
        from diffusers.models.autoencoders.autoencoder_mmaudio import MMAudioMelSpectrogram

        self.vae, self.vocoder, self.configuration = vae, vocoder, configuration
        self.channels = configuration.channels
        hop = math.prod(configuration.vocoder_rates)
        if hop != MEL_HOP:
            raise UserError(
                f"the vocoder's rates {list(configuration.vocoder_rates)} make {hop} samples a mel frame, "
                f"expected {MEL_HOP}"
            )
        self._mel: Any = MMAudioMelSpectrogram(SAMPLE_RATE, MEL_WINDOW, configuration.mel_bands, MEL_HOP)
        self._mel.to(vae.data_mean.device)

    @classmethod
    def from_files(
        cls,
        vae: str | Path,
        vocoder: str | Path,
        configuration: MMAudioConfig | Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = torch.float32,
        device: torch.device | str = "cpu",
    ) -> MMAudioCodec:
        """The codec of the published files `v1-16.pth` and `best_netG.pt` (or the same names as safetensors).

        Raises:
            UserError: a file is missing, damaged, holds code, or another model or size.
        """
        checked = MMAudioConfig.of(configuration)
        return cls(
            load_vae(vae, checked, dtype, device), load_vocoder(vocoder, checked, dtype, device), checked
        )

    def fit(self, batches_BS: Iterable[Tensor]) -> None:
        """Does nothing: the codec is trained already."""

    def mel(self, waves_BS: Tensor) -> Tensor:
        """float [B,S] in [-1,1] -> float32 log10 mel energies [B,M,S//256], on the networks' device.

        Raises UserError for waves of no batch or shorter than a token.
        """
        if waves_BS.ndim != 2 or waves_BS.shape[1] < self.token_samples:
            raise UserError(
                f"waves of shape {list(waves_BS.shape)}: expected [clips, samples] of at least "
                f"{self.token_samples} samples ({SAMPLE_RATE} a second)"
            )
        with torch.no_grad():
            return self._mel(waves_BS.to(self._mel.mel_basis.device, torch.float32)) / math.log(10)

    def encode(self, waves_BS: Tensor) -> Tensor:
        """float [B,S] in [-1,1] -> float32 latents [B,S//512,C], on the waves' device."""
        return self.encode_mel(self.mel(waves_BS)).transpose(1, 2).contiguous().to(waves_BS.device)

    def encode_mel(self, mel_BMN: Tensor) -> Tensor:
        """log10 mel energies [B,M,N] -> the posterior's float32 mean [B,C,N//2]."""
        with torch.no_grad():
            moments = self.vae.encode(mel_BMN.to(self.vae.data_mean))
            return moments[:, : self.channels].float()

    def decode(self, latents_BLC: Tensor, num_samples: int | None = None) -> Tensor:
        """float [B,L,C] -> float32 waves [B,S] in [-1,1], on the latents' device; S is `num_samples` or 512 L."""
        check_latents(latents_BLC, "audio", self.channels)
        waves_BS = self.vocode(self.decode_mel(latents_BLC.transpose(1, 2))).to(latents_BLC.device)
        return waves_BS if num_samples is None else fit_length(waves_BS, num_samples)

    def decode_mel(self, latents_BCL: Tensor) -> Tensor:
        """Latents [B,C,L] -> float32 log10 mel energies [B,M,2L]."""
        with torch.no_grad():
            return self.vae.decode(latents_BCL.to(self.vae.data_mean)).float()

    def vocode(self, mel_BMN: Tensor) -> Tensor:
        """log10 mel energies [B,M,N] -> float32 waves [B,256 N]."""
        with torch.no_grad():
            return self.vocoder(mel_BMN.to(self.vae.data_mean)).sample.squeeze(1).float()

    def config(self) -> dict[str, Any]:
        return asdict(self.configuration)

    def tensors(self) -> dict[str, Tensor]:
        """The networks' weights as they are used, by our names, on the CPU."""
        parts = {"vae": self.vae, "vocoder": self.vocoder}
        return {
            f"{part}.{k}": v.cpu() for part, module in parts.items() for k, v in module.state_dict().items()
        }

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MMAudioCodec:
        checked = MMAudioConfig.of({name: value for name, value in config.items() if name != "kind"})
        vae, vocoder = build_vae(checked), build_vocoder(checked)
        for part, module in (("vae.", vae), ("vocoder.", vocoder)):
            own = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
            load_named(module, own, "a saved MMAudio codec")
        return cls(vae, vocoder, checked)


def load_vae(
    path: str | Path, config: MMAudioConfig, dtype: torch.dtype | None, device: torch.device | str
) -> Any:
    """The VAE of the published file `v1-16.pth`. Raises UserError as `MMAudioCodec.from_files`."""
    tensors = normalised_weights(read_tensors(path, "MMAudio VAE"))
    vae = build_vae(config)
    load_named(vae, tensors, f"{path}, read as the MMAudio VAE,", dtype=dtype, device=device)
    return vae


def load_vocoder(
    path: str | Path, config: MMAudioConfig, dtype: torch.dtype | None, device: torch.device | str
) -> Any:
    """The vocoder of the published file `best_netG.pt`. Raises UserError as `MMAudioCodec.from_files`."""
    under = None if Path(path).suffix == ".safetensors" else "generator"
    tensors = joined_weights(read_tensors(path, "BigVGAN vocoder", under))
    vocoder = build_vocoder(config)
    load_named(vocoder, tensors, f"{path}, read as the BigVGAN vocoder,", vocoder_name, dtype, device)
    return vocoder
