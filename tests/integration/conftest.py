from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.baselined_host import BaselinedHost, enrolled_host

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaselinedHost]:
    """One enrolled host for all whose tests leave it as they found it."""
    with enrolled_host("enrolled", tmp_path_factory.mktemp("enrolled")) as host:
        yield host
