"""The role set's documents as tasks of stock modules."""

from typing import Any

import pytest

from benchmarks.stock import (
    Declared,
    NotTranslatableError,
    Task,
    Tenant,
    contents,
    handlers,
    merged,
    tasks_of,
)

OWNER = {"owner": "root", "group": "root", "mode": "0644"}
SSHD = "/etc/ssh/sshd_config"


def document(**parts: list[Any]) -> Declared:
    return Declared(action="host_state", arguments={"version": 1, **parts})


def tenant(*declared: Declared, **found: Any) -> Tenant:  # noqa: ANN401 - whatever the host holds
    nothing: dict[str, Any] = {"activations": {}, "links": {}, "vault": [], "manifests": [], "trees": []}
    return Tenant(
        declared=declared,
        found=nothing | found,
        store_url="https://store.test",
        image="r/o@sha256:cd",
    )


def tasks(*declared: Declared, **found: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - whatever the host holds
    """Module and the one argument that names the resource."""
    names = ("path", "dest", "argv", "name")
    made = tasks_of(tenant(*declared, **found))
    return [
        (task.module, next(task.arguments[key] for key in names if key in task.arguments)) for task in made
    ]


def test_every_resource_of_a_document_is_one_task() -> None:
    made = tasks(
        document(
            absent=["/etc/old"],
            directories=[{"path": "/etc/d", **OWNER}],
            files=[{"path": "/etc/d/f", "content": "x", **OWNER}],
            links=[{"path": "/etc/l", "target": "/dev/null"}],
            units=[{"name": "a.service", "state": "started", "enabled": True}],
        )
    )
    assert [item for item in made if "tenantfleet" not in str(item) and "podman" not in str(item)] == [
        ("file", "/etc/old"),
        ("file", "/etc/d"),
        ("copy", "/etc/d/f"),
        ("file", "/etc/l"),
        ("systemd_service", "a.service"),
    ]


def test_accounts_are_groups_then_users_with_their_memberships() -> None:
    text = '# accounts\nu tf-ops 2106 "Reading" /var/lib/tf-ops /bin/sh\ng tf-ssh 2110\nm tf-ops tf-ssh\n'
    made = tasks_of(tenant(document(files=[{"path": "/etc/sysusers.d/x.conf", "content": text, **OWNER}])))
    assert [task.module for task in made[:4]] == ["group", "group", "user", "copy"]
    assert made[2].arguments == {
        "name": "tf-ops",
        "uid": 2106,
        "group": "tf-ops",
        "comment": "Reading",
        "home": "/var/lib/tf-ops",
        "shell": "/bin/sh",
        "create_home": False,
        "groups": ["tf-ssh"],
        "append": True,
    }


def test_what_a_file_brings_about_is_managed_too() -> None:
    made = tasks(
        document(
            files=[
                {
                    "path": "/etc/tmpfiles.d/x.conf",
                    "content": "d /run/x 0750 a b -\nf /run/x/y 0640 a b -\n",
                    **OWNER,
                },
                {"path": "/etc/sysctl.d/x.conf", "content": "a.b = 1\n-c = 2\nd.*.e = 3\n", **OWNER},
                {"path": "/etc/tenantfleet/nftables.d/x.nft", "content": "table inet x {\n}\n", **OWNER},
            ]
        )
    )
    assert ("file", "/run/x") in made
    assert ("copy", "/run/x/y") in made
    assert ("command", ["/usr/sbin/sysctl", "--values", "a.b"]) in made
    assert ("command", ["/usr/sbin/nft", "--terse", "list", "table", "inet", "x"]) in made


def test_a_file_that_a_program_reads_is_judged_before_it_is_put_in_place() -> None:
    (task,) = [
        task
        for task in tasks_of(tenant(document(files=[{"path": SSHD, "content": "", **OWNER}])))
        if task.arguments.get("dest") == SSHD
    ]
    assert task.arguments["validate"] == "/usr/sbin/sshd -t -f %s"


def test_a_changed_file_calls_the_handler_of_its_unit() -> None:
    unit = {"name": "ssh.service", "state": "started", "reload_on": [SSHD]}
    declared = document(files=[{"path": SSHD, "content": "", **OWNER}], units=[unit])
    (task,) = [task for task in tasks_of(tenant(declared)) if task.arguments.get("dest") == SSHD]
    called = [handler for handler in handlers([declared]) if handler["listen"] in task.keywords["notify"]]
    assert [handler["ansible.builtin.systemd_service"] for handler in called] == [
        {"name": "ssh.service", "state": "reloaded"}
    ]


SLOT = Declared(
    action="release_slot",
    arguments={
        "unit": "link",
        "code": "ab",
        "files": [{"path": "units/tf-link.service", "content": "[Unit]\n", **OWNER}],
        "services": ["tf-link.service"],
    },
    activation="0123",
)
FOUND = {
    "activations": {"link": {"id": "0123", "document": "{}"}},
    "links": {"/etc/systemd/system/tf-link.service": "/opt/tenantfleet/link/current/units/tf-link.service"},
}


def test_an_activation_is_its_folder_its_files_and_its_links() -> None:
    made = tasks(SLOT, **FOUND)
    assert [item for item in made if "/link" in str(item) or "tf-link" in str(item)] == [
        ("file", "/opt/tenantfleet/link"),
        ("file", "/opt/tenantfleet/link/0123"),
        ("file", "/opt/tenantfleet/link/0123/config"),
        ("file", "/opt/tenantfleet/link/0123/units"),
        ("file", "/opt/tenantfleet/link/0123/code"),
        ("copy", "/opt/tenantfleet/link/0123/units/tf-link.service"),
        ("copy", "/opt/tenantfleet/link/0123/activation.json"),
        ("file", "/opt/tenantfleet/link/current"),
        ("file", "/etc/systemd/system/tf-link.service"),
        ("systemd_service", "tf-link.service"),
    ]


def test_an_activation_that_does_not_run_is_not_translated() -> None:
    with pytest.raises(NotTranslatableError, match="declares 0123, the host runs 4567"):
        tasks(SLOT, activations={"link": {"id": "4567", "document": "{}"}})


def copy(text: str, place: str = "/etc/x") -> Task:
    return Task(module="copy", arguments={"dest": place}, content=text)


def test_what_differs_between_hosts_is_a_variable_and_what_is_equal_stays_in_the_task() -> None:
    hosts = {"a": [copy("one"), copy("same")], "b": [copy("two", "/etc/y"), copy("same")]}
    playbook, values = merged(hosts)
    assert playbook[0]["ansible.builtin.copy"] == {
        "dest": "{{ own_0_dest }}",
        "src": "{{ inventory_hostname }}/0",
    }
    assert playbook[1]["ansible.builtin.copy"] == {"dest": "/etc/x", "src": "all/1"}
    assert values == {"a": {"own_0_dest": "/etc/x"}, "b": {"own_0_dest": "/etc/y"}}
    assert contents(hosts) == {"a/0": "one", "b/0": "two", "all/1": "same"}


def test_hosts_with_other_tasks_have_no_common_playbook() -> None:
    with pytest.raises(NotTranslatableError):
        merged({"a": [copy("one")], "b": []})
    with pytest.raises(NotTranslatableError):
        merged({"a": [copy("one")], "b": [Task(module="file", arguments={"path": "/etc/x"})]})
