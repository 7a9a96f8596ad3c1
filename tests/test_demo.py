"""`ovi-lab demo`: its page in a real browser with the small Ovi and with a run, and its command line."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import pytest

from helpers import media_makers
from helpers.browser import Sight, missing, opened
from helpers.made_clips import write_wav
from ovi_lab import api, demo

if importlib.util.find_spec("gradio") is None:
    pytest.skip("no gradio here: pip install -e '.[demo]'", allow_module_level=True)


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


@pytest.fixture(scope="module")
def asked() -> Iterator[set[str]]:
    """Hosts whose addresses this process looked up."""
    hosts: set[str] = set()
    look_up = socket.getaddrinfo

    def noted(host: object, *more: object, **named: object) -> object:
        hosts.add(host.decode() if isinstance(host, bytes) else str(host))
        return look_up(host, *more, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", noted)
        yield hosts


@pytest.fixture(scope="module")
def address(small_ovi: Path, asked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of the small Ovi."""
    if reason := missing():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY"):
            patch.setenv(name, "True")  # given back at the end
        with demo.served(api.load(small_ovi), "127.0.0.1", free_port()) as at:
            yield at


def fill(sight: Sight, name: str, value: str) -> None:
    field = sight.page.locator(f"#{name} textarea, #{name} input[type=number]").first
    field.fill(value)
    field.press("Tab")


def ready(sight: Sight) -> None:
    """The page with its settings open and one step chosen."""
    sight.page.wait_for_selector("#sample")
    sight.page.locator("#settings").get_by_text("Settings", exact=True).click()
    fill(sight, "steps", "1")


@pytest.mark.slow
def test_two_seeds_side_by_side(address: str, browser, asked: set[str]) -> None:
    with opened(browser, address) as sight:
        ready(sight)
        fill(sight, "prompt", "rain <S>Hello.<E> Audio: rain")
        fill(sight, "seed", "7")
        fill(sight, "count", "2")
        sight.page.locator("#sample").click()
        for place in range(2):
            sight.page.wait_for_selector(f"#clip{place} video", timeout=90_000)
            sight.until(f"#clip{place} video", "e.readyState >= 2 && e.duration > 5")
        labels = [sight.page.locator(f"#clip{place}").inner_text() for place in range(2)]
        assert [label.strip().splitlines()[0] for label in labels] == ["Seed 7", "Seed 8"]
        boxes = [sight.page.locator(f"#clip{place} video").bounding_box() for place in range(2)]
        assert boxes[0]["y"] == boxes[1]["y"]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
        assert not sight.page.locator("#clip2").is_visible()
        sight.page.get_by_text("What made it").click()
        assert "rain <S>Hello.<E> Audio: rain" in sight.page.locator("#record").inner_text()

        fill(sight, "count", "1")
        sight.page.locator("#long").get_by_text("Longer than the model's clips", exact=True).click()
        fill(sight, "seconds", "2.5")
        sight.page.locator("#sample").click()
        message = sight.page.wait_for_selector(".toast-body", timeout=20_000)
        assert (
            "seconds=2.5 is shorter than the 5.04 s of a clip of small: leave it out" in message.inner_text()
        )
        fill(sight, "seconds", "6")
        fill(sight, "overlap", "4")
        sight.page.locator("#sample").click()
        sight.until("#clip0 video", "e.readyState >= 2 && e.duration > 5.9 && e.duration < 6.2", 90)
        sight.until("#record", """e.innerText.includes('windows')""")
        assert not sight.page.locator("#clip1").is_visible()
        assert sight.said == []
        assert [url for url in sight.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert {host for host in asked if host not in ("127.0.0.1", "localhost", "None")} == set()


@pytest.mark.slow
def test_a_given_video_and_a_given_sound(address: str, browser, tmp_path: Path) -> None:
    """The sound to a video, the picture to a sound, and both given at once, which is a message."""
    video = media_makers.clip(tmp_path / "silent.mp4", seconds=5.2, audio=None)
    sound = write_wav(tmp_path / "voice.wav", [2000, -2000] * 42_000)
    with opened(browser, address) as sight:
        ready(sight)
        sight.page.locator("#media").get_by_text("Given video or sound", exact=True).click()
        sight.page.locator("#video input[type=file]").set_input_files(video)
        sight.page.wait_for_selector("#video video")
        assert not sight.page.locator("#video button[aria-label^=Trim]").is_visible()
        sight.page.locator("#sample").click()
        sight.page.wait_for_selector("#clip0 video", timeout=90_000)
        sight.page.get_by_text("What made it").click()
        sight.until("#record", """e.innerText.includes('"silent.mp4"')""")
        assert "given_sha256" in sight.page.locator("#record").inner_text()

        sight.page.locator("#audio input[type=file]").set_input_files(sound)
        sight.page.wait_for_selector("#audio audio, #audio #waveform", state="attached")
        sight.page.locator("#sample").click()
        message = sight.page.wait_for_selector(".toast-body", timeout=20_000)
        assert "video and audio are both given whole, and nothing is left to make" in message.inner_text()

        sight.page.locator("#video").get_by_label("Clear").click()
        sight.page.wait_for_selector("#video input[type=file]", state="attached")
        sight.page.locator("#sample").click()
        sight.until("#record", """e.innerText.includes('"voice.wav"')""", 90)
        assert set(sight.said) <= {"Method not implemented."}  # which gradio 6 says at every upload
        assert [url for url in sight.asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.slow
def test_a_mistake_is_a_message_and_a_phone_has_all_of_the_page(address: str, browser) -> None:
    with opened(browser, address, width=390, height=844) as sight:
        ready(sight)
        fill(sight, "prompt", "broken <S>no end")
        sight.page.locator("#sample").click()
        message = sight.page.wait_for_selector(".toast-body", timeout=20_000)
        assert "<S> in the prompt (at <S>no end…) is never closed" in message.inner_text()
        head = sight.page.locator(".toast-title")
        assert head.evaluate("e => getComputedStyle(e, '::before').content") == '"Not sampled"'
        assert head.evaluate("e => getComputedStyle(e).fontSize") == "0px"  # of gradio's own word, "Error"
        assert sight.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert sight.page.locator("#clip0 video").count() == 0


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped_and_leaves_nothing(small_ovi: Path, tmp_path: Path) -> None:
    port, words = free_port(), [sys.executable, "-m", "ovi_lab.demo", str(small_ovi)]
    with subprocess.Popen(
        [*words, "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == f"small: http://127.0.0.1:{port}   (Ctrl-C closes it)\n"
            with urlopen(f"http://127.0.0.1:{port}/", timeout=20) as page:
                assert "ovi-lab: small" in page.read().decode()
            assert len(list(tmp_path.glob("ovi_lab_demo_*"))) == 1
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stderr.read().endswith("ovi-demo: closed\n")
    assert list(tmp_path.glob("ovi_lab_demo_*")) == []


@pytest.mark.slow
def test_a_run_with_its_own_codec_has_no_field_for_an_image(tmp_path: Path) -> None:
    settings = api.read_yaml(api.config_dir() / "sampler" / "unipc.yaml")
    ball = SimpleNamespace(
        name="ball", example="a red ball", takes_image=False, takes_media=True, config={"sampler": settings}
    )
    page = demo.build_page(ball, tmp_path)
    shown = {block.label: block.visible for block in page.blocks.values() if getattr(block, "label", None)}
    assert shown["First frame and shape"] is False
    assert shown["Given video or sound"] is True
    assert shown["Settings"] is True


def test_a_place_that_cannot_be_had_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words, said in (
            (["--port", port], f"--port {port} cannot be used"),
            (["--port", "0"], "--port is 0: expected a number from 1 to 65535"),
            (["--host", "256.1.1.1"], "--host 256.1.1.1"),
            (["--port", str(free_port())], "nothing"),
        ):
            assert demo.main([str(tmp_path / "nothing"), *words]) == 2
            error = capsys.readouterr().err
            assert said in error
            assert error.count("\n") == 1
