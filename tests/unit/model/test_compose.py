from __future__ import annotations

from typing import Any

import pytest

from tenantfleet.model.compose import check_compose
from tenantfleet.model.errors import InputRefusedError

IMAGE = "registry.test/tools/api@sha256:" + "a" * 64


def service(**changes: object) -> dict[str, Any]:
    return {
        "image": IMAGE,
        "user": "2201:2201",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "command": ["/usr/bin/api"],
    } | changes


def compose(**changes: object) -> dict[str, Any]:
    return {"services": {"api": service(**changes)}, "volumes": {"data": None}}


def without(key: str) -> dict[str, Any]:
    return {"services": {"api": {k: v for k, v in service().items() if k != key}}}


def test_a_modest_stack_passes_and_says_the_same_afterwards() -> None:
    document = compose(
        volumes=["data:/data"],
        tmpfs=["/tmp:size=16m,mode=1777"],
        secrets=["db_password"],
        environment={"EDITION": "1"},
        stop_signal="SIGINT",
        stop_grace_period="30s",
    )
    checked = check_compose("notes", document)
    assert checked.images == (IMAGE,)
    plain = checked.model_dump(mode="json", exclude_defaults=True)
    assert plain == {**document, "volumes": {"data": {}}}
    assert check_compose("notes", plain) == checked


REFUSED = {
    "privileged": ({"privileged": True}, "never runs with privileges"),
    "cap_add": ({"cap_add": ["NET_ADMIN"]}, "no capability"),
    "cap_drop": ({"cap_drop": ["NET_RAW"]}, "must be [ALL]"),
    "devices": ({"devices": ["/dev/kmsg"]}, "no device"),
    "network_mode": ({"network_mode": "host"}, "one network"),
    "networks": ({"networks": ["other"]}, "one network"),
    "pid": ({"pid": "host"}, "no namespace"),
    "ipc": ({"ipc": "host"}, "no namespace"),
    "uts": ({"uts": "host"}, "no namespace"),
    "userns_mode": ({"userns_mode": "host"}, "no namespace"),
    "ports on every address": ({"ports": ["8080:8080"]}, "nothing is published"),
    "ports on loopback": ({"ports": ["127.0.0.1:8080:8080"]}, "nothing is published"),
    "expose": ({"expose": ["8080"]}, "the one port"),
    "build": ({"build": "."}, "named by digest"),
    "env_file": ({"env_file": ".env"}, "not read"),
    "extends": ({"extends": {"file": "/etc/x.yml"}}, "one file"),
    "security_opt": ({"security_opt": ["seccomp=unconfined"]}, "nothing is unconfined"),
    "security_opt beside": (
        {"security_opt": ["no-new-privileges", "label=disable"]},
        "nothing is unconfined",
    ),
    "sysctls": ({"sysctls": {"net.ipv4.ip_forward": 1}}, "nothing in the kernel"),
    "restart": ({"restart": "always"}, "systemd restarts"),
    "extra_hosts": ({"extra_hosts": ["host:host-gateway"]}, "do not resolve"),
    "dns": ({"dns": "9.9.9.9"}, "resolves no names"),
    "entrypoint": ({"entrypoint": "/bin/sh"}, "whole command"),
    "command for a shell": ({"command": "rm -rf /data"}, "list of words"),
    "container_name": ({"container_name": "openclaw"}, "the platform's"),
    "volumes_from": ({"volumes_from": ["container:openclaw"]}, "nothing with another"),
    "labels": ({"labels": ["PODMAN_SYSTEMD_UNIT=ssh.service"]}, "the platform's"),
    "a key nobody has heard of": ({"x-podman.rootfs": "/"}, "not on the list"),
    "a folder of the host": ({"volumes": ["/:/data"]}, "nothing of the host"),
    "a relative folder": ({"volumes": ["./x:/data"]}, "nothing of the host"),
    "a volume of the host's kind": ({"volumes": [{"type": "bind", "source": "/"}]}, "nothing of the host"),
    "a volume over the system": ({"volumes": ["data:/etc"]}, "nothing of the host"),
    "a volume upwards": ({"volumes": ["data:/data/../etc"]}, "nothing of the host"),
    "an undeclared volume": ({"volumes": ["other:/data"]}, "not declared"),
    "a tag": ({"image": "registry.test/tools/api:latest"}, "never by a tag"),
    "a short digest": ({"image": "registry.test/tools/api@sha256:abc"}, "never by a tag"),
    "an image without registry": ({"image": "api@sha256:" + "a" * 64}, "never by a tag"),
    "root": ({"user": "0:0"}, "2200 to 2299"),
    "the agent's own number": ({"user": "2101:2101"}, "2200 to 2299"),
    "two numbers": ({"user": "2201:2202"}, "the same number|2200 to 2299"),
    "a writable root": ({"read_only": False}, "must be true"),
    "tmpfs over the system": ({"tmpfs": ["/etc:size=1m"]}, "must be below"),
    "tmpfs without size": ({"tmpfs": ["/tmp"]}, "must be below"),
    "a dependency on nobody": ({"depends_on": ["db"]}, "no other service"),
    "the executor's interpolation": ({"environment": {"TOKEN": "${HOME}"}}, "host's environment"),
    "interpolation in a command": ({"command": ["echo", "$PATH"]}, "host's environment"),
}


@pytest.mark.parametrize(("change", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_on_the_list_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(InputRefusedError, match=r"^stack notes was refused: .*services\.api\.") as refusal:
        check_compose("notes", compose(**change))
    assert any(part in refusal.value.cause for part in why.split("|")), refusal.value.cause
    assert next(iter(change)).partition(".")[0] in refusal.value.cause


@pytest.mark.parametrize("key", ["image", "user", "read_only", "cap_drop", "security_opt", "command"])
def test_what_fences_a_service_in_cannot_be_left_out(key: str) -> None:
    with pytest.raises(InputRefusedError, match=rf"services\.api\.{key} is missing"):
        check_compose("notes", without(key))


@pytest.mark.parametrize(
    ("top", "why"),
    [
        ({"include": ["other.yml"]}, "include"),
        ({"networks": {"default": {"external": True}}}, "one network"),
        ({"secrets": {"s": {"file": "/etc/shadow"}}}, "secrets"),
        ({"configs": {"c": {"file": "/etc/shadow"}}}, "configs"),
        ({"name": "openclaw"}, "the platform's"),
        ({"x-podman": {"in_pod": True}}, "not on the list"),
        ({"volumes": {"data": {"driver": "local"}}}, "no driver"),
        ({"volumes": {"data": {"driver_opts": {"device": "/", "o": "bind"}}}}, "no options"),
        ({"volumes": {"data": {"external": True}}}, "nobody else's"),
        ({"volumes": {"data": {"name": "other_data"}}}, "the platform's"),
        ({"services": {}}, "services"),
    ],
)
def test_what_is_not_on_the_list_is_refused_outside_of_services_too(top: dict[str, Any], why: str) -> None:
    with pytest.raises(InputRefusedError, match="stack notes was refused") as refusal:
        check_compose("notes", compose() | top)
    assert why in refusal.value.cause
