"""docs/images/arms.gif: one caption's clip of each arm of an ablation, picture above, spectrogram below.

    make ablation ARGS="seed=0 name=first" && .venv/bin/python scripts/draw_arms.py runs/first

The clips are those that the runs were scored by; the white line is the moment shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.signal import stft

from ovi_eval.clips.clipset import ClipSet

ARMS = {
    "bidirectional_scaled": "fusion, scaled RoPE",
    "bidirectional_unscaled": "fusion, unscaled RoPE",
    "none": "no fusion",
}
SIDE, HEIGHT, GAP, HEAD = 208, 104, 16, 44


def spectrogram(wave_S: NDArray[np.float32], rate: int) -> Image.Image:
    """Power in decibels over 70 dB, time from left to right, low frequencies at the bottom."""
    _, _, found = stft(wave_S, rate, nperseg=400, noverlap=320)
    level = 20 * np.log10(np.abs(found) + 1e-6)
    grey = np.clip((level - level.max() + 70) / 70, 0, 1)[::-1]
    red, green, blue = np.clip(1.6 * grey, 0, 1), grey**1.5, np.clip(0.25 + 0.6 * grey, 0, 1) * (grey > 0)
    picture = Image.fromarray((np.stack([red, green, blue], -1) * 255).astype(np.uint8))
    return picture.resize((SIDE, HEIGHT), Image.Resampling.BILINEAR)


def main() -> None:
    """Draw the animation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, help="folder of the ablation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clip", type=int, default=0, help="which of the scored clips")
    parser.add_argument("--out", type=Path, default=Path("docs/images/arms.gif"))
    options = parser.parse_args()
    shown = [
        (title, ClipSet.load(options.study / arm / f"seed_{options.seed}" / "clips.safetensors"))
        for arm, title in ARMS.items()
    ]
    first = shown[0][1]
    caption, count = first.captions[options.clip], first.frames_NTHWC.shape[1]
    width = len(shown) * (SIDE + GAP) + GAP
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    base = Image.new("RGB", (width, HEAD + 24 + SIDE + 8 + HEIGHT + GAP), "white")
    draw = ImageDraw.Draw(base)
    draw.text((GAP, 14), f"“{caption}”", fill="#222", font=font)
    for place, (title, clips) in enumerate(shown):
        left = GAP + place * (SIDE + GAP)
        draw.text((left, HEAD), title, fill="#222", font=small)
        base.paste(
            spectrogram(clips.waves_NS[options.clip].numpy(), clips.sample_rate), (left, HEAD + 24 + SIDE + 8)
        )
    frames = []
    for time in range(count):
        page = base.copy()
        draw = ImageDraw.Draw(page)
        for place, (_, clips) in enumerate(shown):
            left = GAP + place * (SIDE + GAP)
            picture = Image.fromarray(clips.frames_NTHWC[options.clip, time].numpy())
            page.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, HEAD + 24))
            at = left + round((time + 0.5) / count * SIDE)
            draw.line(
                [(at, HEAD + 24 + SIDE + 8), (at, HEAD + 24 + SIDE + 8 + HEIGHT - 1)], fill="white", width=2
            )
        frames.append(page.quantize(96, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # twice as slow as the clip, so that an eye can follow without its sound
    frames[0].save(
        options.out,
        save_all=True,
        append_images=frames[1:],
        duration=round(2000 / first.fps),
        loop=0,
        optimize=True,
    )
    print(options.out, options.out.stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main()
