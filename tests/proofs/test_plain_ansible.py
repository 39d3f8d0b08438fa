"""Plain Ansible is first-class: an operator reads every tenant with a read-only account, and no driver."""

import json
import subprocess
from pathlib import Path

import pytest

from lab import endpoints, fleet
from tests.proofs.tenants import Fleet

pytestmark = pytest.mark.lab


@pytest.fixture
def source(provisioned: Fleet, tmp_path: Path) -> Path:
    """An inventory source like inventories/dev, over this lab's machines."""
    machines = endpoints.info(provisioned.control.lab)["machines_file"]
    document = {"plugin": "tenantfleet", "environment": "dev", "provider": "static", "machines": machines}
    path = tmp_path / "fleet.tenantfleet.yml"
    path.write_text(json.dumps(document))
    return path


def play(
    provisioned: Fleet, source: Path, key: Path, playbook: str, *argv: str
) -> subprocess.CompletedProcess[str]:
    command = [str(fleet.ROOT / ".venv/bin/ansible-playbook"), "-i", str(source), f"playbooks/{playbook}"]
    environment = {**provisioned.control.environment, "ANSIBLE_CONFIG": str(fleet.ROOT / "ansible.cfg")}
    environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(key.parent / "cp")
    return subprocess.run(
        [*command, "--private-key", str(key), *argv],
        check=False, capture_output=True, text=True, env=environment, cwd=fleet.ROOT,
    )  # fmt: skip


def test_an_operator_verifies_all_tenants_with_a_read_only_account(
    provisioned: Fleet, source: Path, tmp_path: Path
) -> None:
    key = tmp_path / "tf-ops"
    provisioned.control.run("operator", "certificate", "--key-file", str(key), "--minutes", "10")
    done = play(provisioned, source, key, "tenant_verify.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("unreachable=0    failed=0") == len(provisioned.tenants), done.stdout


def test_the_read_only_account_cannot_change_a_tenant(
    provisioned: Fleet, source: Path, tmp_path: Path
) -> None:
    key = tmp_path / "tf-ops"
    provisioned.control.run("operator", "certificate", "--key-file", str(key), "--minutes", "10")
    as_operator = ("--extra-vars", "ansible_user=tf-ops run_number=999999")
    done = play(provisioned, source, key, "tenant_decommission.yml", *as_operator)
    assert done.stdout.count("Missing sudo password") >= len(provisioned.tenants), done.stdout
    assert done.stdout.count("changed=0    unreachable=0    failed=1") == len(provisioned.tenants), (
        done.stdout
    )
