"""What secret_file decides: what comes in, what changes, what is refused; and no text names a value."""

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

SOURCE = Path(__file__).parents[3] / "library/secret_file.py"
CANARY = "canary-value-1"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("secret_file", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


secret_file = loaded()


def planned(**how: Any) -> Any:  # noqa: ANN401 - the module is loaded from a file
    return secret_file.plan(**{"held": {}, "given": {}, "generate": [], "remove": [], **how})


def test_a_new_value_is_written_and_registered() -> None:
    plan = planned(given={"provider.openai": CANARY})
    assert plan.actions == {"provider.openai": "created", "registry": "created"}
    assert json.loads(plan.write["registry"]) == {"provider.openai": CANARY}


def test_what_the_vault_holds_already_is_unchanged() -> None:
    held = planned(given={"gateway_token": CANARY}).write
    plan = planned(held=held, given={"gateway_token": CANARY})
    assert not plan.changed
    assert plan.actions == {"gateway_token": "unchanged"}


def test_another_value_is_an_update_of_it_and_of_the_registry() -> None:
    held = planned(given={"gateway_token": CANARY}).write
    plan = planned(held=held, given={"gateway_token": "canary-value-2"})
    assert plan.actions == {"gateway_token": "updated", "registry": "updated"}
    assert CANARY not in plan.write["registry"]


def test_a_removed_name_leaves_the_registry() -> None:
    held = planned(given={"gateway_token": CANARY, "redaction_key": "canary-value-2"}).write
    plan = planned(held=held, remove=["gateway_token", "never_there"])
    assert plan.remove == ("gateway_token",)
    assert json.loads(plan.write["registry"]) == {"redaction_key": "canary-value-2"}


def test_what_is_missing_is_made_once_and_registered_as_it_would_be_searched() -> None:
    generate = [
        {"name": "node_key", "format": "ed25519_pem", "bytes": 32},
        {"name": "redaction_key", "format": "base64url", "bytes": 32},
    ]
    plan = planned(generate=generate)
    key = load_pem_private_key(plan.write["node_key"].encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    assert len(plan.write["redaction_key"]) == 43
    registry = json.loads(plan.write["registry"])
    assert registry["node_key"] == plan.write["node_key"].strip()
    assert not planned(held=plan.write, generate=generate).changed


def test_two_hosts_make_different_secrets() -> None:
    generate = [{"name": "redaction_key", "format": "base64url", "bytes": 32}]
    assert planned(generate=generate).write != planned(generate=generate).write


def test_a_given_value_wins_over_making_one() -> None:
    generate = [{"name": "gateway_token", "format": "base64url", "bytes": 32}]
    assert planned(given={"gateway_token": CANARY}, generate=generate).write["gateway_token"] == CANARY


@pytest.mark.parametrize(
    "value",
    [
        "tiny1",
        "",
        " leading-space",
        "trailing-newline\n",
        "nul\0in-the-middle",
        None,
        123456,
        ["list-of-one"],
    ],
)
def test_a_value_that_redaction_cannot_guard_is_refused_by_name_only(value: object) -> None:
    with pytest.raises(secret_file.VaultError, match=r"provider\.openai") as refused:
        secret_file.refuse_bad_values({"provider.openai": value})
    if value:
        assert str(value) not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["registry", "../passwd", "a/b", "", "UPPER", ".hidden", "two..dots", "x" * 121]
)
def test_a_name_that_is_no_file_name_of_the_vault_is_refused(name: str) -> None:
    with pytest.raises(secret_file.VaultError):
        secret_file.refuse_bad_names([name])


def consumed(folder: Path, names: list[str]) -> Any:  # noqa: ANN401 - the module is loaded from a file
    vault = secret_file.Vault(folder)
    vault.prepare()
    vault.consume("job-1", names)
    return vault


def test_the_same_job_with_the_same_values_is_a_resumed_run(tmp_path: Path) -> None:
    vault = consumed(tmp_path, ["gateway_token"])
    assert secret_file.refuse_replay(vault, "job-1", {"gateway_token": CANARY}, {"gateway_token": CANARY})
    assert not secret_file.refuse_replay(vault, "job-2", {"gateway_token": CANARY}, {})


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"gateway_token": "another-value"}, {"gateway_token": CANARY}),
        ({"gateway_token": CANARY}, {"gateway_token": "rotated-since"}),
        ({"gateway_token": CANARY}, {}),
        ({"gateway_token": CANARY, "more": CANARY}, {"gateway_token": CANARY, "more": CANARY}),
        ({}, {"gateway_token": CANARY}),
    ],
)
def test_a_consumed_job_with_anything_else_is_a_replay(
    tmp_path: Path, given: dict[str, str], held: dict[str, str]
) -> None:
    vault = consumed(tmp_path, ["gateway_token"])
    with pytest.raises(secret_file.VaultError, match="replay") as refused:
        secret_file.refuse_replay(vault, "job-1", given, held)
    assert CANARY not in str(refused.value)


def test_the_marks_and_the_vault_are_for_root_alone(tmp_path: Path) -> None:
    consumed(tmp_path / "vault", ["gateway_token"])
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "vault").rglob("*")}
    assert modes == {".consumed": 0o700, "job-1": 0o600}


@pytest.fixture
def in_memory() -> Any:  # noqa: ANN401 - yields a Path
    folder = Path("/dev/shm") / f"tf-test-{os.getpid()}"
    folder.mkdir(mode=0o700)
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def bootstrap(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "bootstrap.json"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_bootstrap_file_is_read_once(in_memory: Path) -> None:
    path = bootstrap(in_memory, json.dumps({"gateway_token": CANARY}).encode())
    assert secret_file.read_once(path, check=True) == {"gateway_token": CANARY}
    assert secret_file.read_once(path, check=False) == {"gateway_token": CANARY}
    assert not path.exists()
    with pytest.raises(secret_file.VaultError, match="once only"):
        secret_file.read_once(path, check=False)


def test_a_bootstrap_file_on_a_disk_is_refused_and_stays(tmp_path: Path) -> None:
    if secret_file.filesystem_of(os.open(tmp_path, os.O_RDONLY))[0] in {"tmpfs", "ramfs"}:
        pytest.skip("this machine's temporary folder lies in memory")
    path = bootstrap(tmp_path, b"{}")
    with pytest.raises(secret_file.VaultError, match="must lie on ramfs or tmpfs"):
        secret_file.read_once(path, check=False)
    assert path.exists()


def test_a_bootstrap_file_that_others_can_read_is_refused(in_memory: Path) -> None:
    with pytest.raises(secret_file.VaultError, match="only its owner"):
        secret_file.read_once(bootstrap(in_memory, b"{}", 0o640), check=False)


def test_a_bootstrap_file_that_is_a_link_is_refused(in_memory: Path) -> None:
    bootstrap(in_memory, b"{}")
    (in_memory / "link").symlink_to(in_memory / "bootstrap.json")
    with pytest.raises(secret_file.VaultError):
        secret_file.read_once(in_memory / "link", check=False)


@pytest.mark.parametrize("content", [b'["canary-value-1"]', b'{"gateway_token": "canary-value-1"', b"\xff"])
def test_a_bootstrap_file_of_another_form_is_refused_without_its_content(
    in_memory: Path, content: bytes
) -> None:
    with pytest.raises(secret_file.VaultError) as refused:
        secret_file.read_once(bootstrap(in_memory, content), check=False)
    assert CANARY not in repr(refused.value)
    assert refused.value.__context__ is None or CANARY not in str(refused.value.__context__)
