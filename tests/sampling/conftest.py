"""Sampling remembers digests of weights in the user's cache: each test has an empty one."""

import pytest


@pytest.fixture(autouse=True)
def _empty_cache(own_cache: None) -> None:
    pass
