"""`ovi-demo`, also `ovi-lab demo`: a page on this machine where a model is sampled by hand (package gradio)."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovi_eval.common.boundary import LineParser, command
from ovi_eval.common.installation import install_hint
from ovi_lab import __version__
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from ovi_lab.api import Model

SEEDS = 4
"""The most clips side by side."""
LOCAL = ("127.0.0.1", "localhost", "::1")
_SAMPLER = (
    "steps", "solver", "shift", "video_guidance", "audio_guidance", "negative_video", "negative_audio",
)  # fmt: skip
_SHAPES = [("the image's, or the model's own", ""), "1:1", "16:9", "9:16", "4:3", "3:4"]
_NOT_SAMPLED = "Not sampled"
_CSS = (
    """
.gradio-container { width: 100% !important; max-width: 1500px !important; margin: 0 auto; }
#status { min-height: 72px; }
footer { display: none !important; }
/* to trim a video, the browser would load a program from another machine */
#video button[aria-label^="Trim"], #video button[aria-label^="Reset"] { display: none; }
/* gradio 6 heads a message by its kind, whatever title it is given */
.toast-title.error { font-size: 0; }
.toast-title .toast-count { font-size: var(--text-lg); margin-left: .4em; }
.toast-title.error::before { font-size: var(--text-lg); content: """
    f'"{_NOT_SAMPLED}"; }}'
)


def build_page(model: Model, folder: Path) -> Any:
    """The page (`gradio.Blocks`) of a loaded model; clips are written into `folder`.

    Fields that the model does not take are left out: an image, another shape of the picture, a given video or sound.
    """
    gradio = _gradio(folder)
    own = model.config["sampler"]
    with gradio.Blocks(title=f"ovi-lab: {model.name}", analytics_enabled=False) as page:
        gradio.Markdown(f"## {escape(model.name)}\nThe same prompt, settings and seed give the same clip.")
        with gradio.Row():
            with gradio.Column(min_width=300):
                prompt = gradio.Textbox(
                    label="Prompt", lines=3, value=model.example, elem_id="prompt", autofocus=True
                )
                with gradio.Row():
                    seed = gradio.Number(
                        label="Seed", value=0, precision=0, minimum=0, elem_id="seed", min_width=100
                    )
                    count = gradio.Slider(
                        1, SEEDS, value=1, step=1, label="Seeds side by side", elem_id="count", min_width=150
                    )
                button = gradio.Button("Sample", variant="primary", elem_id="sample")
                with gradio.Accordion("First frame and shape", open=False, visible=model.takes_image):
                    image = gradio.Image(
                        label="First frame", type="filepath", sources=["upload", "clipboard"], height=200
                    )
                    aspect = gradio.Dropdown(_SHAPES, value="", label="Shape of the picture")
                with gradio.Accordion(
                    "Given video or sound", open=False, visible=model.takes_media, elem_id="media"
                ):
                    video = gradio.Video(
                        label="Video whose sound is made", sources=["upload"], height=200, elem_id="video"
                    )
                    audio = gradio.Audio(
                        label="Sound whose picture is made", type="filepath", sources=["upload"], elem_id="audio",
                        editable=False, buttons=[],
                    )  # fmt: skip
                with gradio.Accordion("Longer than the model's clips", open=False, elem_id="long"):
                    gradio.Markdown("Made window by window. Prompts of the windows have ||| between them.")
                    with gradio.Row():
                        longer = [
                            gradio.Number(
                                label=label,
                                value=None,
                                placeholder=shown,
                                step=0.1,
                                elem_id=name,
                                min_width=120,
                            )
                            for label, shown, name in (
                                ("Seconds", "the model's own", "seconds"),
                                ("Shared by two windows, seconds", "a quarter of a window", "overlap"),
                            )
                        ]
                with gradio.Accordion("Settings", open=False, elem_id="settings"):
                    steps = gradio.Slider(1, 100, value=own["steps"], step=1, label="Steps", elem_id="steps")
                    with gradio.Row():
                        solver = gradio.Dropdown(
                            ["unipc", "dpm++", "euler"], value=own["solver"], label="Solver", min_width=120
                        )
                        shift = gradio.Number(label="Shift", value=own["shift"], min_width=120)
                    with gradio.Row():
                        guidance = [
                            gradio.Number(label=label, value=own[name], min_width=120)
                            for label, name in (
                                ("Guidance, picture", "video_guidance"), ("Guidance, sound", "audio_guidance"),
                            )
                        ]  # fmt: skip
                    negative = [
                        gradio.Textbox(label=label, value=own[name])
                        for label, name in (
                            ("Not in the picture", "negative_video"), ("Not in the sound", "negative_audio"),
                        )
                    ]  # fmt: skip
            with gradio.Column(scale=2, min_width=300):
                # apart from the players, which would each show the same bar
                status = gradio.HTML(elem_id="status")
                with gradio.Row():
                    videos = [
                        gradio.Video(
                            visible=place == 0, label="Clip", elem_id=f"clip{place}", min_width=280,
                            interactive=False, loop=True, height=320, buttons=["download"],
                        )
                        for place in range(SEEDS)
                    ]  # fmt: skip
                with gradio.Accordion("What made it", open=False):
                    record = gradio.JSON(show_label=False, elem_id="record")

        def sample(*given: Any, progress: Any = gradio.Progress()) -> Iterator[list[Any]]:  # noqa: B008 (gradio's way)
            yield from _sampled(model, folder, given, progress)

        fields = [
            prompt,
            image,
            video,
            audio,
            aspect,
            seed,
            count,
            *longer,
            steps,
            solver,
            shift,
            *guidance,
            *negative,
        ]
        gradio.on(
            [button.click, prompt.submit],
            sample,
            fields,
            [status, *videos, record],
            # the model makes one clip at a time; more wait in the queue, which says so
            concurrency_limit=1,
            show_progress_on=status,
            scroll_to_output=True,
            api_name="sample",
        )
    return page


def _gradio(folder: Path) -> Any:
    """The package, asking nothing of other machines and keeping its files in `folder`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # its version check too
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import gradio

    return gradio


def _sampled(
    model: Model, folder: Path, given: Sequence[Any], progress: Callable[..., Any]
) -> Iterator[list[Any]]:
    """The page's values after each clip; a user's mistake is shown as a message of the page."""
    import gradio

    prompt, image, video, audio, aspect, seed, count, seconds, overlap, *settings = given
    length = {"seconds": seconds, "overlap": overlap}
    files = {"image": image, "video": video, "audio": audio}
    sampler = dict(zip(_SAMPLER, settings, strict=True))
    videos: list[Any] = [gradio.skip()] * SEEDS
    records = []
    for place in range(count):

        def step(done: int, total: int, place: int = place) -> None:
            progress((place * total + done, count * total), desc=f"Clip {place + 1} of {count}", unit="steps")

        try:
            clip = model.sample(
                prompt,
                seed=(seed or 0) + place,
                aspect=aspect or None,
                on_step=step,
                **length,
                **files,
                **sampler,
            )
            with tempfile.NamedTemporaryFile(
                dir=folder, prefix=f"seed{clip.record['seed']}_", suffix=".mp4", delete=False
            ) as file:
                path = clip.save(file.name)
        except UserError as error:
            # the message is HTML for gradio, and tags of a prompt would vanish
            raise gradio.Error(
                escape(str(error)), title=_NOT_SAMPLED, duration=None, print_exception=False
            ) from error
        videos[place] = gradio.Video(value=str(path), visible=True, label=f"Seed {clip.record['seed']}")
        records.append(dict(clip.record))
        hidden = [gradio.Video(value=None, visible=False)] * (SEEDS - 1 - place)
        yield ["", *videos[: place + 1], *hidden, records]


@contextmanager
def served(model: Model, host: str, port: int) -> Iterator[str]:
    """Serves the page for as long as the block lasts; gives its address."""
    with tempfile.TemporaryDirectory(prefix="ovi_lab_demo_") as folder:
        page = build_page(model, Path(folder))
        import gradio

        # gradio's own theme takes its fonts from another machine
        theme = gradio.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        )
        page.queue(api_open=False).launch(
            server_name=host, server_port=port, share=False, ssr_mode=False, quiet=True, theme=theme, css=_CSS,
            footer_links=[], run_history=False, mcp_server=False, prevent_thread_lock=True,
        )  # fmt: skip
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            page.close(verbose=False)


def _check_free(host: str, port: int) -> None:
    """Raises UserError where the page cannot be served, before a model is loaded."""
    if not 0 < port < 65536:
        raise UserError(f"--port is {port}: expected a number from 1 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(address)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port} cannot be used ({error.strerror or error}): choose another"
        ) from error


def _parser() -> LineParser:
    parser = LineParser(
        prog="ovi-demo",
        description="Serve a page where a model is sampled by hand: prompt, first frame, settings, several seeds side "
        "by side. It is for this machine alone unless --host names another address.",
    )
    parser.examples = (
        ("ovi-demo runs/fusion/last", "a run of one's own"),
        ("ovi-demo small_ovi --port 8000", "the small Ovi that ovi-small writes, at http://127.0.0.1:8000"),
        ("ovi-demo ovi_960x960_10s --weights DIR --offload", "a released model, its files under DIR"),
    )
    add = parser.add_argument
    add("--version", action="version", version=f"ovi-demo {__version__}")
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a run, a released model's name or a folder, as ovi-sample takes it",
    )
    add("--weights", type=Path, metavar="DIR", help="folder of released weights")
    add("--device", default="auto", help="cpu or cuda:N (default: a GPU where there is one)")
    add("--offload", action="store_true", help="parts are on the GPU only while they work")
    add(
        "--host", default="127.0.0.1", help="address that the page is served at (default: this machine alone)"
    )
    add("--port", type=int, default=7860, help="(default: 7860)")
    return parser


@command("ovi-demo", interrupted="closed", interrupted_code=0)
def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C; returns the exit code."""
    options = _parser().parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        raise UserError(f"ovi-demo needs the package gradio: {install_hint('demo')}")
    _check_free(options.host, options.port)
    from ovi_lab.api import load

    model = load(options.checkpoint, weights=options.weights, device=options.device, offload=options.offload)
    with served(model, options.host, options.port) as address:
        print(f"{model.name}: {address}   (Ctrl-C closes it)", flush=True)
        if options.host not in LOCAL:
            print("Whoever reaches this address can sample here; there is no password.", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # its files are deleted then, too
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
