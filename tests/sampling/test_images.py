"""First frames: images of any kind come out as they are meant to be seen, or are refused in one line."""

from __future__ import annotations

import logging
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from ovi_lab.errors import UserError
from ovi_lab.sampling.images import read_image, scaled

SIDE = 32
RAMP = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)


def png16(path: Path, values: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of 16 bits, [H, W, channels], which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    body = b"".join(chunk(*own) for own in [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows))])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
    return path


def pixels(path: Path) -> np.ndarray:
    return np.array(read_image(path)).astype(int)


def near(found: np.ndarray, expected: np.ndarray, by: int = 1) -> None:
    assert np.abs(found - np.broadcast_to(expected, found.shape)).max() <= by


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        png16(path, RAMP[..., None], 0)
    else:
        Image.fromarray(RAMP).save(path)
    near(pixels(path), (RAMP / 257)[..., None])


def test_grey_of_16_bits_from_the_other_end(tmp_path: Path) -> None:
    big = tmp_path / "big.tif"
    Image.frombytes("I;16B", (SIDE, SIDE), RAMP.astype(">u2").tobytes()).save(big)
    near(pixels(big), (RAMP / 257)[..., None])


def test_colours_of_16_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 65536, (SIDE, SIDE, 3))
    near(pixels(png16(tmp_path / "rgb.png", rgb, 2)), rgb / 257)
    alpha = rng.integers(0, 65536, (SIDE, SIDE, 1))
    near(
        pixels(png16(tmp_path / "rgba.png", np.concatenate([rgb, alpha], -1), 6)),
        rgb / 257 * alpha / 65535,
        2,
    )
    grey = RAMP[..., None]
    near(
        pixels(png16(tmp_path / "la.png", np.concatenate([grey, alpha], -1), 4)),
        grey / 257 * alpha / 65535,
        2,
    )


def test_a_transparent_colour_is_black(tmp_path: Path) -> None:
    grey = np.full((SIDE, SIDE, 1), 40000)
    grey[:16] = 50000
    found = pixels(png16(tmp_path / "g.png", grey, 0, (b"tRNS", struct.pack(">H", 50000))))
    assert found[3, 3].tolist() == [0, 0, 0]
    assert found[20, 3].tolist() == [156, 156, 156]
    rgb = np.full((SIDE, SIDE, 3), 40000)
    rgb[:16] = (50000, 1, 2)
    found = pixels(png16(tmp_path / "c.png", rgb, 2, (b"tRNS", struct.pack(">HHH", 50000, 1, 2))))
    assert found[3, 3].tolist() == [0, 0, 0]
    assert found[20, 3].tolist() == [156, 156, 156]
    palette = Image.new("P", (SIDE, SIDE), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.paste(0, (0, 0, SIDE, 16))
    palette.save(tmp_path / "p.png", transparency=0)
    assert pixels(tmp_path / "p.png")[[3, 20], 3].tolist() == [[0, 0, 0], [0, 255, 0]]
    palette.save(tmp_path / "half.png", transparency=bytes([128, 255]))
    assert pixels(tmp_path / "half.png")[[3, 20], 3].tolist() == [[128, 0, 0], [0, 255, 0]]
    Image.new("L", (SIDE, SIDE), 200).save(tmp_path / "l.png", transparency=200)
    assert pixels(tmp_path / "l.png").max() == 0
    for mode, colour in (("LA", (200, 128)), ("RGBA", (200, 100, 50, 128))):
        for kind in ("png", "webp", "tif"):
            if (mode, kind) == ("LA", "webp"):
                continue
            Image.new(mode, (SIDE, SIDE), colour).save(tmp_path / f"a.{kind}", **_exact(kind))
            near(pixels(tmp_path / f"a.{kind}"), np.array([c * 128 / 255 for c in colour[:-1]]), 1)


def _exact(kind: str) -> dict[str, object]:
    return {"lossless": True, "exact": True} if kind == "webp" else {}


def test_colours_multiplied_by_alpha_are_not_multiplied_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("RGBA", (SIDE, SIDE), (100, 50, 25, 128)).save(path)
    straight, multiplied = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))
    assert straight in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(straight, multiplied))
    near(pixels(tmp_path / "a.tif"), np.array([100, 50, 25]), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_every_orientation_is_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32], upright[:24, 32:], upright[24:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    # how a picture is stored that is to be seen so
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    found = pixels(path)
    assert found.shape == (48, 64, 3)
    for row, column in ((12, 16), (12, 48), (36, 16), (36, 48)):
        near(found[row, column], upright[row, column].astype(int), 12)


def test_numbers_of_another_range_are_scaled_by_it_or_refused(tmp_path: Path) -> None:
    ramp = (RAMP / 65535).astype(np.float32)

    def written(name: str, values: np.ndarray, **tags: float) -> Path:
        info = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in tags.items():
            info[int(tag[1:])] = value
        Image.fromarray(values).save(tmp_path / name, tiffinfo=info)
        return tmp_path / name

    near(pixels(written("unit.tif", ramp)), (ramp * 255)[..., None])
    near(pixels(written("stated.tif", ramp * 4 - 1, t340=-1.0, t341=3.0)), (ramp * 255)[..., None])
    for name, values, words in (
        ("hdr.tif", ramp * 10, "floating-point numbers from 0 to 10 and does not state their range"),
        ("minus.tif", ramp - 0.5, "does not state their range: save it with 8 or 16 bits"),
        ("nan.tif", np.where(ramp > 0.5, np.float32("nan"), ramp), "holds NaN or infinity"),
        ("int.tif", RAMP.astype(np.int32) * 30000, "whole numbers of 32 bits from 0 to 1.96605e"),
    ):
        with pytest.raises(UserError, match=words):
            read_image(written(name, values))


def test_other_spaces_of_colour(tmp_path: Path) -> None:
    Image.new("1", (SIDE, SIDE), 1).save(tmp_path / "bit.png")
    assert pixels(tmp_path / "bit.png").min() == 255
    assert scaled(read_image(tmp_path / "bit.png"), (64, 32)).shape == (64, 32, 3)
    Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert pixels(tmp_path / "cmyk.tif")[0, 0].tolist() == [255, 0, 0]
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    orange = Image.new("RGB", (SIDE, SIDE), (230, 120, 40))
    ImageCms.profileToProfile(orange, srgb, lab, outputMode="LAB").save(tmp_path / "lab.tif")
    near(pixels(tmp_path / "lab.tif"), np.array([230, 120, 40]), 3)


def test_a_colour_profile_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    orange = Image.new("RGB", (SIDE, SIDE), (230, 120, 40))
    orange.save(tmp_path / "same.png", icc_profile=srgb)
    assert pixels(tmp_path / "same.png")[0, 0].tolist() == [230, 120, 40]
    swapped = _swapped_primaries(srgb)
    orange.save(tmp_path / "other.png", icc_profile=swapped)
    red, green, blue = pixels(tmp_path / "other.png")[0, 0]
    assert green > red > blue  # its red is green
    half = Image.new("RGBA", (SIDE, SIDE), (230, 120, 40, 128))
    half.save(tmp_path / "half.png", icc_profile=swapped)
    near(pixels(tmp_path / "half.png")[0, 0], np.array([red, green, blue]) * 128 / 255, 1)
    for name, profile in (("broken", b"no profile"), ("grey", swapped)):
        mode = "RGB" if name == "broken" else "CMYK"
        Image.new(mode, (SIDE, SIDE)).save(tmp_path / f"{name}.tif", icc_profile=profile)
        with caplog.at_level(logging.WARNING):
            read_image(tmp_path / f"{name}.tif")
        assert f"{name}.tif: its colour profile cannot be used" in caplog.text


def _swapped_primaries(profile: bytes) -> bytes:
    """The profile whose red and green are exchanged, and whose name is no longer sRGB."""
    content = bytearray(profile)
    places = {}
    for n in range(struct.unpack(">I", content[128:132])[0]):
        at = 132 + 12 * n
        places[bytes(content[at : at + 4])] = at
    for first, second in ((b"rXYZ", b"gXYZ"),):
        a, b = places[first], places[second]
        content[a + 4 : a + 12], content[b + 4 : b + 12] = content[b + 4 : b + 12], content[a + 4 : a + 12]
    at, length = struct.unpack(">II", content[places[b"desc"] + 4 : places[b"desc"] + 12])
    text = bytes(content[at : at + length])
    for name in ("sRGB".encode("utf-16-be"), b"sRGB"):
        text = text.replace(name, name.upper().replace(b"S", b"X"))
    content[at : at + length] = text
    return bytes(content)


@pytest.mark.parametrize(("kind", "turned"), [("png", False), ("jpg", False), ("tif", False), ("tif", True)])
def test_pixels_that_are_not_square_are_made_so(tmp_path: Path, kind: str, turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (64, 64)).save(path, dpi=(100, 200), exif=exif)
    assert read_image(path).size == ((64, 128) if turned else (128, 64))
    for dpi in ((300, 300), (72, 0), (1, 72)):
        Image.new("RGB", (64, 64)).save(path, dpi=dpi)
        assert read_image(path).size == (64, 64)


def test_the_first_of_several_pictures(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    for kind in ("png", "webp", "tif"):
        first.save(tmp_path / f"a.{kind}", save_all=True, append_images=[second], **_exact(kind))
        near(pixels(tmp_path / f"a.{kind}"), np.array([250, 0, 0]), 2)


def test_damage_is_one_line_whatever_the_decoder_meets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("png", "jpg", "webp", "bmp", "tif"):
        path = tmp_path / f"a.{kind}"
        noise.save(path, **({} if kind == "bmp" else {"exif": exif}))
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="cannot be read"):
            read_image(path)
        for _ in range(40):
            broken = bytearray(whole)
            for _ in range(int(rng.integers(1, 6))):
                broken[int(rng.integers(0, min(len(broken), 400)))] = int(rng.integers(0, 256))
            path.write_bytes(broken)
            with suppress(UserError):
                assert read_image(path).mode == "RGB"


@pytest.mark.slow
def test_images_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(name: str) -> str:
        with pytest.raises(UserError) as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)
        return str(error.value)

    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    assert "damaged" in refusal("cut.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    Image.new("RGB", (32, 32)).save(tmp_path / "old.pcx")
    for name in ("text.png", "empty.jpg", "old.pcx"):
        assert "expected PNG, JPEG" in refusal(name)
    assert "no image" in refusal("none.png")
    with pytest.raises(UserError, match="no image at"):
        read_image(tmp_path / ("n" * 300 + ".png"))
    Image.new("RGB", (30, 600)).save(tmp_path / "long.png")
    assert "20.0 times as long as wide" in refusal("long.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "dot.png")
    assert "at least 16 pixels" in refusal("dot.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    assert "pixels are read" in refusal("bomb.png")
    monkeypatch.setattr("ovi_lab.data.images.MAX_BYTES", 10)
    assert "at most 10 are read" in refusal("whole.png")
