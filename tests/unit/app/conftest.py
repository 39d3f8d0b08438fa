"""A small fleet on this machine: a release store over TLS, an environment, and playbooks that run locally."""

from __future__ import annotations

import http.server
import json
import os
import secrets
import ssl
import subprocess
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tenantfleet.app.environment import Environment, create_environment
from tenantfleet.app.orders import new_order, order_text
from tenantfleet.app.payload import new_identity, recipient_of, seal_payload
from tenantfleet.execution.ssh import new_ca
from tenantfleet.model.document import canonical, digest
from tenantfleet.model.secret import Secret
from tenantfleet.model.settings import FleetSettings
from tests.unit.gate_host import GateHost, install_ssh

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tenantfleet.model.order import HubOrder

CANARY = f"sk-canary-{secrets.token_hex(12)}"  # its own in each session: others' runs are searched, too
TENANTFLEET = Path(__file__).parents[3] / ".venv/bin/tenantfleet"

# What the real playbooks look like to the driver, without a host: the same plays, every task on this machine.
PROVISION = """
- name: Enrol
  hosts: tenants
  gather_facts: false
  connection: local
  tasks:
    - {name: Leave out enrolled ones, ansible.builtin.meta: end_host, when: machine_enrolled | bool}
- name: Provision
  hosts: tenants
  gather_facts: false
  connection: local
  tasks:
    - name: Count this run
      ansible.builtin.lineinfile:
        {path: "{{ network.log }}", line: "run {{ run_number }}", create: true, mode: "0600"}
    - name: Wait at the gate
      ansible.builtin.command:
        argv: [setsid, --wait, timeout, "120", sh, -c, 'until test -e $0; do sleep 0.2; done', "{{ gate }}"]
      vars: {gate: "{{ network.gate }}"}
      changed_when: false
    - name: Read the payload
      ansible.builtin.command: {argv: [cat, "{{ tenant_secrets_bootstrap_path }}"]}
      no_log: true
      changed_when: false
      when: tenant_secrets_bootstrap_path != ""
    - name: Go the last step
      ansible.builtin.file: {path: "{{ network.log }}.done", state: touch, mode: "0600"}
      changed_when: false
"""
VERIFY = """
- name: Verify
  hosts: tenants
  gather_facts: false
  connection: local
  tasks: [{name: Look, ansible.builtin.debug: {msg: fine}}]
"""
UNITS = ("egress_proxy", "link", "policy", "safety_wrapper")
MANIFEST = {
    "channel": "tenant",
    "node": "24.19.0",
    "openclaw_lock_sha256": "a" * 64,
    "units": {
        **{unit: {"kind": "tree", "sha256": "b" * 64, "size": 5} for unit in UNITS},
        "openclaw": {"kind": "oci", "sha256": "c" * 64, "size": 5},
    },
    "version": 1,
}
RELEASE = digest(MANIFEST)


@dataclass(frozen=True)
class Fleet:
    home: Path
    project: Path
    environment: Environment
    store: Path
    log: Path
    gate: Path
    recovery: Secret[str] = field(repr=False)
    hosts: dict[str, GateHost]
    canary: str = field(default=CANARY, repr=False)

    def order(self, tenant_id: str = "acme", **changes: object) -> HubOrder:
        """A sealed order; `changes` are fields of it."""
        fields: dict[str, object] = {
            "kind": "provision",
            "tenant_id": tenant_id,
            "tenant_class": "sandbox",
            "region": "eu-lab",
            "tier": "lite",
            "domain": f"{tenant_id}.example.test",
            "autonomy": "standard",
            "release": f"sha256:{RELEASE}",
            **changes,
        }
        order = new_order(fields, life=timedelta(hours=1))
        return seal_payload(
            order, {"provider.openai": Secret(self.canary)}, recipients=self.environment.recipients
        )

    def write(self, order: HubOrder, name: str = "order.yml") -> Path:
        path = self.home / name
        path.write_text(order_text(order))
        return path

    def write_fields(self, order: HubOrder, changes: Mapping[str, object]) -> Path:
        path = self.home / "changed.yml"
        path.write_text(yaml.safe_dump({**order.fields(), **changes}))
        return path

    def command(self, *arguments: str | Path) -> list[str]:
        return [
            str(TENANTFLEET),
            "--home",
            str(self.home),
            "--project",
            str(self.project),
            *map(str, arguments),
        ]

    def tenantfleet(self, *arguments: str | Path, timeout_s: int = 120) -> subprocess.CompletedProcess[str]:
        """Run the real command line to its end."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=clean_env(),
        )

    def open_gate(self) -> None:
        self.gate.touch()

    def enrol_all(self) -> None:
        ledger = self.environment.machine_ledger
        ledger.learn(self.environment.machines())
        for machine in self.environment.machines():
            ledger.mark_enrolled(machine.id, now=datetime.now(UTC))


def clean_env() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("TENANTFLEET_")}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[Path, str, Path]]:
    """A release store over TLS: its directory, URL and CA file."""
    root = tmp_path / "store"
    (root / "manifests").mkdir(parents=True)
    (root / "manifests" / f"{RELEASE}.json").write_bytes(canonical(MANIFEST))
    certificate = _self_signed(tmp_path)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(root), **kwargs)  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield root, f"https://releases.test:{server.server_address[1]}", certificate
    server.shutdown()
    server.server_close()


@pytest.fixture
def fleet(tmp_path: Path, store: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Two machines, a and b, in eu-lab; both count as enrolled; the gate of the playbook is shut.

    Their tasks run here, but to take a host over the driver passes the real gate of each.
    """
    install_ssh(tmp_path, monkeypatch)
    hosts = {
        f"lab-{name}1": GateHost(tmp_path / f"127.0.0.{number}") for name, number in (("a", 1), ("b", 2))
    }
    project = tmp_path / "project"
    (project / "playbooks").mkdir(parents=True)
    (project / "ansible.cfg").write_text("[defaults]\ninterpreter_python = auto_silent\n")
    for name, text in (("provision", PROVISION), ("verify", VERIFY), ("decommission", VERIFY)):
        (project / "playbooks" / f"tenant_{name}.yml").write_text(text)
    machines = tmp_path / "machines.yml"
    machines.write_text(json.dumps({"version": 1, "machines": [_machine("a", 1), _machine("b", 2)]}))
    recovery = new_identity()
    log, gate = tmp_path / "runs.log", tmp_path / "gate"
    settings = FleetSettings.model_validate_json(
        json.dumps(
            {
                "version": 1,
                "environment": "dev",
                "regions": ["eu-lab"],
                "provider": {"kind": "static", "machines": str(machines)},
                "store_url": store[1],
                "store_ca": str(store[2]),
                "store_address": "127.0.0.1",
                "registry": "registry.test:5000",
                "recovery_recipient": recipient_of(recovery),
                "egress_providers": [{"id": "openai", "upstream": "https://model.test/v1"}],
                "network": {"log": str(log), "gate": str(gate)},
            }
        )
    )
    home = tmp_path / "home"
    environment = create_environment(home, settings)
    fleet = Fleet(home, project, environment, store[0], log, gate, recovery, hosts)
    fleet.enrol_all()
    return fleet


def _machine(name: str, number: int) -> dict[str, str]:
    return {
        "id": f"lab-{name}1",
        "region": "eu-lab",
        "site": "lab",
        "address": f"127.0.0.{number}",
        "host_key": new_ca()[1],
        "user": "debian",
    }


def _self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "releases.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("releases.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "store.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
