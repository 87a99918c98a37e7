"""Made-up results folders."""

import pytest
from fake_results import Fake, fill


@pytest.fixture
def fake(tmp_path):
    """An empty sweep of three arms."""
    return Fake(tmp_path)


@pytest.fixture
def full(fake):
    """A sweep with everything in it."""
    return fill(fake)
