"""Where a lab's services listen, and what `lab info` says of them."""

from lab.state import Lab

APT_PORT = 3142
REGISTRY_PORT = 5000
STORE_PORT = 8443
MODEL_PORT = 9443

REGISTRY_NAME = "registry.lab.test"
STORE_NAME = "releases.lab.test"
MODEL_NAME = "model.lab.test"


def info(lab: Lab) -> dict[str, str]:
    """Everything that software pointed at this lab needs to know."""
    return {
        "gateway": lab.gateway,
        "gateway6": lab.gateway6,
        "subnet": str(lab.subnet),
        "subnet6": str(lab.subnet6),
        "dns": lab.gateway,
        "ntp": lab.gateway,
        "apt_proxy": f"http://{lab.gateway}:{APT_PORT}",
        "registry": f"{REGISTRY_NAME}:{REGISTRY_PORT}",
        # The names are known to hosts only: this machine itself reaches the registry by address.
        "registry_address": f"{lab.gateway}:{REGISTRY_PORT}",
        "store_url": f"https://{STORE_NAME}:{STORE_PORT}",
        "store_dir": str(lab.store),
        "model_url": f"https://{MODEL_NAME}:{MODEL_PORT}/v1",
        "model_record_dir": str(lab.services / "model" / "records"),
        "ca_file": str(lab.ca_file),
        "machines_file": str(lab.root / "machines.yml"),
        "ssh_config": str(lab.root / "ssh_config"),
    }
