"""Published ONNX files, run on the CPU by one thread, so that the same input has the same output."""

from pathlib import Path
from typing import Any

import numpy as np

from ovi_eval.common.files import file_sha256
from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import Package, imported
from ovi_eval.common.weights import PublishedFile
from ovi_eval.errors import UserError


class OnnxFile:
    """The network of a published file; `sha256` is the file's."""

    def __init__(self, path: str | Path, file: PublishedFile, extra: str) -> None:
        """Opens the file at `path`, which must be the published one to the byte; `extra` installs onnxruntime.

        Raises UserError where it is missing or another file, or onnxruntime is not installed.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such file; it should hold {file.needs()}")
        self.sha256 = file_sha256(path)
        if self.sha256 != file.sha256:
            raise UserError(
                f"{path}: its sha256 begins {self.sha256[:12]}, that of {file.name} {file.sha256[:12]}; "
                f"fetch {file.needs()}"
            )
        onnxruntime = imported(Package("onnxruntime", install_hint(extra)), file.what)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it takes twice the memory, and is no faster with one thread
        options.log_severity_level = 3  # some files list their weights among their inputs, which is no fault
        self._session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, values: np.ndarray) -> list[np.ndarray]:
        """Every output for a batch of inputs."""
        return self._session.run(None, {self._input: values})
