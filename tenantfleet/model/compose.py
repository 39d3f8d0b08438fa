"""What a tool stack's compose file may say: a list of what is allowed, so that everything else is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from tenantfleet.model.document import Document
from tenantfleet.model.errors import InputRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic_core import ErrorDetails

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,24}$")]
Text = Annotated[str, StringConstraints(max_length=4096)]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,60}$")]

_IMAGE = r"^[a-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)+@sha256:[0-9a-f]{64}$"
_VOLUME = r"^[a-z][a-z0-9_]{0,24}:/(data|srv|var/lib)(/[a-z0-9][A-Za-z0-9_.-]*)*$"
_TMPFS = r"^/(run|tmp|var/cache)(/[a-z0-9][A-Za-z0-9_.-]*)*:size=[0-9]{1,3}m(,mode=[0-7]{3,4})?$"
# Numbers that are nobody's on a host (docs/contracts/host.md): a file of a stack belongs to no account.
_USER = r"^(22[0-9]{2}):(22[0-9]{2})$"


class Service(Document):
    """One container. What is not here (privileges, ports, host paths, …) does not exist for a stack."""

    image: Annotated[str, StringConstraints(pattern=_IMAGE)]
    user: Annotated[str, StringConstraints(pattern=_USER)]
    read_only: Literal[True]
    cap_drop: Annotated[tuple[Literal["ALL"], ...], Field(min_length=1, max_length=1)]
    security_opt: Annotated[tuple[Literal["no-new-privileges"], ...], Field(min_length=1, max_length=1)]
    command: Annotated[tuple[Text, ...], Field(min_length=1)]
    environment: dict[EnvironmentName, Text] = Field(default_factory=dict)
    volumes: tuple[Annotated[str, StringConstraints(pattern=_VOLUME)], ...] = ()
    tmpfs: tuple[Annotated[str, StringConstraints(pattern=_TMPFS)], ...] = ()
    secrets: tuple[Name, ...] = ()
    depends_on: tuple[Name, ...] = ()
    stop_signal: Literal["SIGINT", "SIGQUIT", "SIGTERM"] = "SIGTERM"
    stop_grace_period: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}s$")] = "10s"

    @field_validator("user")
    @classmethod
    def _one_number(cls, user: str) -> str:
        if len(set(user.split(":"))) != 1:
            raise ValueError("user and group must be the same number")
        return user

    @property
    def uid(self) -> int:
        return int(self.user.partition(":")[0])

    @property
    def volume_names(self) -> tuple[str, ...]:
        return tuple(volume.partition(":")[0] for volume in self.volumes)


class NamedVolume(Document):
    """A volume of podman's own. No driver and no options: an option can make it a host's folder."""


class ComposeFile(Document):
    """A whole compose file. Names, network and secret files are the platform's, not the template's."""

    services: Annotated[dict[Name, Service], Field(min_length=1, max_length=10)]
    volumes: dict[Name, NamedVolume] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_what_it_has(self) -> ComposeFile:
        for name, service in self.services.items():
            for volume in service.volume_names:
                if volume not in self.volumes:
                    raise ValueError(f"services.{name}.volumes: {volume} is not declared under volumes")
            for other in service.depends_on:
                if other not in self.services or other == name:
                    raise ValueError(f"services.{name}.depends_on: {other} is no other service")
        return self

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(sorted({service.image for service in self.services.values()}))


def check_compose(stack: str, document: Mapping[str, Any]) -> ComposeFile:
    """Hold a compose file against the list.

    Args:
        stack: its name, for the message.
        document: plain data, e.g. of `yaml.safe_load`.

    Raises:
        InputRefusedError: `stack.refused`, naming stack, service and key.
    """
    for where, text in _texts(document):
        if "$" in text:
            raise _refused(
                stack, f"{where}: $ is refused: the executor would put the host's environment there"
            )
    try:
        return ComposeFile.model_validate(_as_tuples(document))
    except ValidationError as error:
        found = [_complaint(entry) for entry in error.errors(include_url=False)]
        raise _refused(stack, "; ".join(found[:8])) from None


def _refused(stack: str, why: str) -> InputRefusedError:
    return InputRefusedError(
        f"stack {stack} was refused: {why}",
        code="stack.refused",
        hint="docs/operations/tools.md says what a stack may hold; correct its compose file.",
    )


def _complaint(error: ErrorDetails) -> str:
    loc = [str(part) for part in error["loc"] if part != "[key]"]
    key = next((part for part in reversed(loc) if not part.isdigit()), "")
    where = ".".join(loc)
    if error["type"] == "extra_forbidden":
        return f"{where}: {_REASONS.get(key, 'this key is not on the list of allowed ones')}"
    if error["type"] == "missing":
        return f"{where} is missing: {_REASONS.get(key, 'each service says it')}"
    if key in _REASONS:
        return f"{where}: {_REASONS[key]}"
    return f"{where}: {error['msg']}".removeprefix(": Value error, ")


def _as_tuples(value: Any) -> Any:  # noqa: ANN401 - plain data of any shape
    """Lists as the frozen documents hold them; an empty volume (`data:`) as what it means."""
    if isinstance(value, list | tuple):
        return tuple(map(_as_tuples, value))
    if isinstance(value, dict):
        return {key: _as_tuples({} if item is None else item) for key, item in value.items()}
    return value


def _texts(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            place = f"{where}.{key}" if where else str(key)
            yield place, str(key)
            yield from _texts(item, place)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, where)


_NETWORK = "each stack has one network, which the platform makes: no host, foreign or external one"
_NAMESPACE = "a stack shares no namespace with the host or another container"
_REASONS = {
    "build": "images are built by the release and named by digest",
    "cap_add": "a tool gets no capability",
    "cap_drop": "it must be [ALL]",
    "cgroup_parent": "limits are the platform's",
    "command": "it must be a list of words; there is no shell",
    "configs": "what a service reads is in its image, a volume or a declared secret",
    "container_name": "names are the platform's",
    "devices": "a tool gets no device",
    "dns": "a stack resolves no names; its services know each other by name",
    "driver": "a volume has no driver: one could make it a folder of the host",
    "driver_opts": "a volume has no options: one could make it a folder of the host",
    "entrypoint": "say the whole command",
    "env_file": "environment files are not read",
    "expose": "stack.yml names the one port that nginx reaches",
    "extends": "a stack stands in one file",
    "external": "a stack owns its volumes; it mounts nobody else's",
    "extra_hosts": "services of a stack know each other by name; other names do not resolve",
    "image": "an image is named as registry/repository@sha256:<64 hexadecimal digits>, never by a tag",
    "include": "a stack stands in one file",
    "ipc": _NAMESPACE,
    "labels": "labels are the platform's",
    "name": "names are the platform's",
    "network_mode": _NETWORK,
    "networks": _NETWORK,
    "pid": _NAMESPACE,
    "ports": "nothing is published, loopback included: nginx alone reaches the port that stack.yml names",
    "privileged": "a tool never runs with privileges",
    "read_only": "it must be true: state belongs into a volume, the rest into tmpfs",
    "restart": "systemd restarts a stack",
    "security_opt": "it must be [no-new-privileges]; nothing is unconfined",
    "sysctls": "a tool sets nothing in the kernel",
    "tmpfs": "it must be below /run, /tmp or /var/cache, with a size: /run/app:size=16m",
    "user": "it must be a number from 2200 to 2299, twice: 2201:2201",
    "userns_mode": _NAMESPACE,
    "uts": _NAMESPACE,
    "volumes": "a named volume below /data, /srv or /var/lib, e.g. data:/var/lib/app; nothing of the host",
    "volumes_from": "a stack shares nothing with another container",
}
