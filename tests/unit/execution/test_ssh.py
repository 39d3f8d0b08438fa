from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenantfleet.execution.ssh import ask_host
from tenantfleet.model.errors import EnvironmentMissingError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_machine_without_an_ssh_program_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentMissingError) as caught:
        ask_host(address="127.0.0.1", account="tf-deploy", key_file=tmp_path / "key", ssh_arguments="")
    assert caught.value.code == "ssh.missing"
