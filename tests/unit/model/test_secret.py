from __future__ import annotations

import copy
import pickle

import pytest

from tenantfleet.model.secret import Secret


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret:>20}", repr([secret]), repr(vars)):
        assert "hunter2" not in shown
    assert secret.reveal() == "hunter2"


def test_a_secret_is_never_pickled_or_copied() -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(Secret("hunter2"))
