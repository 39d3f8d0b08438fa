"""What playbooks need besides hosts, where no driver gives it: a published release, certificates, variables.

`python -m lab.fleet publish` builds this repository's release, puts it into the lab's store and registry, and
makes it the inventory's;
`python -m lab.fleet inventory` is an inventory of the lab's hosts, with what the driver would tell them.
"""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from lab import endpoints
from lab.host import Host
from lab.state import Lab, LabError, write_whole
from tenantfleet.app.stacks import tools_of_release

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("notes", "pages")
STACKS = ROOT / "lab/stacks"
_CERTIFIED_FOR = "-5m:+24h"
# Where no driver counts runs there is one, which everybody who uses this inventory continues.
RUN_NUMBER = 1
_SSH_ITSELF = 255  # exit status of ssh when there is no login
PRESENT_RUN = f"SetEnv=TENANTFLEET_RUN_NUMBER={RUN_NUMBER}"


def publish(lab: Lab, *, stacks: Path = STACKS) -> str:
    """Build and publish, with the tool stacks of a directory; return the digest of the release's manifest.

    Raises LabError with the command's own words.
    """
    place = endpoints.info(lab)
    built = json.loads(_tenantfleet("release", "build", "--stacks", str(stacks), "--json"))
    digest = str(built["digest"])
    where = (
        "--store",
        place["store_dir"],
        "--registry",
        place["registry_address"],
        "--ca-file",
        place["ca_file"],
    )
    _tenantfleet("release", "publish", digest, *where, "--json")
    return digest


def network(lab: Lab) -> dict[str, Any]:
    """The setting `network` of an environment whose machines are this lab's."""
    place = endpoints.info(lab)
    here = [place["gateway"], place["gateway6"]]
    return {
        "admin_networks": [place["subnet"], place["subnet6"]],
        "ntp_servers": [place["ntp"]],
        "destinations": {
            "mirrors": {"addresses": here, "ports": [endpoints.APT_PORT]},
            "resolvers": {"addresses": here, "ports": [53]},
            "time": {"addresses": here, "ports": [123]},
            "release": {"addresses": here, "ports": [endpoints.REGISTRY_PORT, endpoints.STORE_PORT]},
            "providers": {"addresses": here, "ports": [endpoints.MODEL_PORT]},
            "control_plane": {"addresses": here, "ports": [443]},
        },
        "tool_destinations": {"feeds": {"addresses": here, "ports": [endpoints.STORE_PORT]}},
    }


def inventory(lab: Lab, *, only: str | None) -> dict[str, Any]:
    """All hosts that run, or the one named, in the group `tenants`; none before there is a release."""
    known = Host.all(lab) if _inventory_release(lab).exists() else []
    hosts = [host for host in known if host.running and only in {None, host.name}]
    variables = {f"lab-{host.name}": _variables(lab, host) for host in hosts}
    return {"tenants": {"hosts": list(variables)}, "_meta": {"hostvars": variables}}


def _variables(lab: Lab, host: Host) -> dict[str, Any]:
    place = endpoints.info(lab)
    key = _deploy_key(lab)
    digest = _inventory_release(lab).read_text().removeprefix("sha256:")
    manifest = json.loads((lab.store / f"manifests/{digest}.json").read_bytes())
    release = {**manifest, "manifest_sha256": digest}
    tools = tools_of_release(
        release,
        _tools(),
        fetch=lambda sha256, _: (lab.store / f"trees/{sha256}.tar.gz").read_bytes(),
        destinations=network(lab)["tool_destinations"],
    )
    return {
        "ansible_host": host.address,
        "ansible_ssh_common_args": f"-F {place['ssh_config']} -o HostKeyAlias={host.name} -o {PRESENT_RUN}",
        "run_number": RUN_NUMBER,
        "ansible_ssh_private_key_file": str(key),
        "enrol_private_key_file": str(lab.keys / "client"),
        "machine_user": "debian",
        "machine_enrolled": _taken_over(lab, host, key),
        "fleet_ssh_user_ca": (_folder(lab) / "user_ca.pub").read_text().strip(),
        "network": network(lab),
        "registry": place["registry"],
        "release_store_url": place["store_url"],
        "release": release,
        "egress_providers": [{"id": "openai", "upstream": place["model_url"], "model": "lab-1"}],
        "order_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{host.name}.lab.test")),
        "tenant_secrets_bootstrap_path": str(_payload(lab, host)),
        "tenant": {
            "tenant_id": host.name,
            "tenant_class": "sandbox",
            "region": host.region,
            "tier": "lite",
            "tools": list(_tools()),
            "domain": f"{host.name}.lab.test",
            "autonomy": "standard",
            "environment": "dev",
        },
        **tools.host_vars(),
    }


def _tools() -> tuple[str, ...]:
    """Tool stacks belong into the scenario that is about them; elsewhere they would only cost time."""
    return TOOLS if os.environ.get("MOLECULE_SCENARIO_NAME") == "tenant_tools" else ()


def _folder(lab: Lab) -> Path:
    folder = lab.root / "fleet"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _inventory_release(lab: Lab) -> Path:
    """Where the digest of the inventory's release is kept; whoever else publishes here leaves it alone."""
    return _folder(lab) / "release"


def _payload(lab: Lab, host: Host) -> Path:
    """An opened payload; its one secret is invented and worth nothing."""
    path = _folder(lab) / f"payload-{host.name}.json"
    if not path.exists():
        write_whole(
            path, json.dumps({"secrets": {"provider.openai": f"sk-lab-{uuid.uuid4().hex}"}}), mode=0o600
        )
    return path


def _deploy_key(lab: Lab) -> Path:
    """A key certified for tf-deploy and tf-ops by the lab's own user authority."""
    folder = _folder(lab)
    authority, key = folder / "user_ca", folder / "deploy"
    for path in (authority, key):
        if not path.exists():
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path))
    certify = (
        "ssh-keygen",
        "-q",
        "-s",
        str(authority),
        "-I",
        "lab",
        "-n",
        "tf-deploy,tf-ops",
        "-V",
        _CERTIFIED_FOR,
    )
    _run(*certify, f"{key}.pub")
    return key


def _taken_over(lab: Lab, host: Host, key: Path) -> bool:
    """Give the host to our run, as the driver does; False when it knows no tf-deploy yet."""
    options = (
        "-F",
        str(lab.root / "ssh_config"),
        "-o",
        "BatchMode=yes",
        "-o",
        "ControlPath=none",
        "-i",
        str(key),
    )
    login = subprocess.run(
        ["ssh", *options, f"tf-deploy@{host.name}", f"run-acquire {RUN_NUMBER} 60"],
        check=False,
        capture_output=True,
        text=True,
    )
    if login.returncode not in {0, _SSH_ITSELF}:
        raise LabError(f"{host.name}: {login.stderr.strip()}")
    return login.returncode == 0


def _tenantfleet(*argv: str) -> str:
    return _run(str(ROOT / ".venv/bin/tenantfleet"), *argv)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, check=False, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        raise LabError(f"{' '.join(argv[:3])} ended with {done.returncode}")
    return done.stdout


def main() -> None:
    lab = Lab.from_environment()
    command = sys.argv[1] if sys.argv[1:] else ""
    try:
        if command == "publish":
            digest = publish(lab)
            write_whole(_inventory_release(lab), digest)
            print(digest)  # noqa: T201 (the command's output)
        elif command == "inventory":  # Ansible adds --list
            scenario = os.environ.get("MOLECULE_SCENARIO_NAME")
            only = f"m-{scenario.replace('_', '-')}" if scenario else None
            print(json.dumps(inventory(lab, only=only)))  # noqa: T201
        else:
            sys.exit("lab.fleet: say publish or inventory")
    except LabError as error:
        sys.exit(f"lab.fleet: {error}")


if __name__ == "__main__":
    main()
