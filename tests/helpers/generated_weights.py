"""Published weight files with tensors generated from their names, written once a test run for all its processes."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from ovi_eval.backbones import clap, i3d, panns, raft, s3fd, syncnet, vggish
from ovi_eval.backbones.clap_keys import BASE
from ovi_eval.check.case import Setting
from ovi_eval.common.weights import Network, PublishedFile, load_published

LISTS: dict[PublishedFile, tuple[str, Callable[[], dict[str, Tensor]]]] = {
    vggish.FILE: ("vggish_keys.txt.gz", dict),
    panns.FILE: ("panns_cnn14_16k_keys.txt.gz", panns.transform_tables),
    i3d.FILE: ("i3d_keys.txt.gz", dict),
    syncnet.FILE: ("syncnet_keys.txt.gz", dict),
    s3fd.FILE: ("s3fd_keys.txt.gz", dict),
    raft.FILES["raft-things"]: ("raft_keys.txt.gz", dict),
    clap.MUSIC_SPEECH: ("laion_clap_htsat_base_keys.txt.gz", lambda: clap.as_built(BASE)),
}
"""The list of a file's tensors among the goldens, and the tensors that are computed instead of generated."""


class GeneratedWeights(Setting):
    """A setting for cases of ovi-eval check whose files stay until the test run ends."""

    def generated_weights(
        self, file: PublishedFile, keys: str, tables: dict[str, Tensor] | None = None
    ) -> Path:
        with FileLock(self.scratch / f"{file.name}.lock"):
            return super().generated_weights(file, keys, tables)

    def path(self, file: PublishedFile) -> Path:
        """The file, under its published name."""
        keys, tables = LISTS[file]
        return self.generated_weights(file, keys, tables())

    def network(self, build: Callable[[], Network], file: PublishedFile, *_: object) -> Network:
        """The network with these weights, made once in a process: leave it as it is."""
        return self.keep(file.name, lambda: load_published(build, self.path(file), file).network)

    def links(self, folder: Path, *files: PublishedFile) -> Path:
        """A new folder that has these files alone."""
        folder.mkdir(parents=True)
        for file in files:
            (folder / file.name).symlink_to(self.path(file))
        return folder

    def forget(self) -> None:
        self._kept.clear()
