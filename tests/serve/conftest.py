"""What the tests of the service share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def without_page() -> Iterator[None]:
    """The service as it is without the extra `page`, which these tests neither need nor have to be installed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "gradio", None)
        for name in [name for name in sys.modules if name.startswith("captionkit.serve.ui.page")]:
            patched.delitem(sys.modules, name)
        yield
