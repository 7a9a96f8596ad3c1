"""Hydra looks for launchers in the namespace package `hydra_plugins` and nowhere else; the code is in ovi_lab."""

from ovi_lab.sweeps.submitit import SubmititLauncher


class SlurmLauncher(SubmititLauncher):
    """`hydra/launcher=submitit_slurm`."""

    cluster = "slurm"


class LocalLauncher(SubmititLauncher):
    """`hydra/launcher=submitit_local`."""

    cluster = "local"
