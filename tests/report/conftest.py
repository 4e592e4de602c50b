from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.report.chromium import Tab, opened


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with opened(tmp_path_factory.mktemp("profile")) as found:
        yield found
