"""Hydra looks for launchers in the namespace package `hydra_plugins` and nowhere else; the code is in ovi_lab."""

from ovi_lab.sweeps.local_pool import PoolLauncher as _LocalPoolLauncher


class LocalPoolLauncher(_LocalPoolLauncher):
    """`hydra/launcher=local_pool`."""
