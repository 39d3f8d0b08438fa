import importlib.util
import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "library/legacy_state.schema.json").read_text())
EXAMPLE = yaml.safe_load((ROOT / "lab/older_product.yml").read_text())


def load() -> Any:  # noqa: ANN401 - the module is loaded from a file
    spec = importlib.util.spec_from_file_location("legacy_state", ROOT / "library/legacy_state.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["legacy_state"] = module
    spec.loader.exec_module(module)
    return module


ls = load()


def refusal(**inventory: object) -> str:
    """What is wrong with an inventory that is only read, as its paths are the machine's own."""
    with pytest.raises(ls.Refused) as refused:
        ls.inventory_of({"version": 1, "inventory": inventory})
    return str(refused.value)


def test_a_good_inventory_satisfies_module_and_schema() -> None:
    document = {"version": 1, "inventory": EXAMPLE, "timeout_s": 60}
    jsonschema.validate(document, SCHEMA)
    assert ls.inventory_of(document).fate("projects", "n8n") == "remove"
    assert ls.inventory_of(document).fate("projects", "n8n-2") == "unknown"


@pytest.mark.parametrize(
    "inventory",
    [
        {"project": {"n8n": "remove"}},
        {"projects": ["n8n"]},
        {"projects": {"n8n": "delete"}},
        {"projects": {"n8n*": "remove"}},
        {"projects": {"": "remove"}},
        {"images": {"older/app:*": "remove"}},
        {"units": {"orchestrator": "remove"}},
        {"units": {"orchestrator@1.service": "remove"}},
        {"cron_files": {"/etc/passwd": "remove"}},
        {"cron_files": {"/etc/cron.d/../passwd": "remove"}},
        {"nginx_sites": {"../nginx.conf": "remove"}},
        {"crontabs": {"../root": {"x": "remove"}}},
        {"crontabs": {"root": {"": "remove"}}},
        {"roots": "/opt"},
        {"roots": ["opt"]},
        {"paths": {"/opt/../etc": "remove"}, "roots": ["/opt"]},
        {"docker": "purge"},
    ],
)
def test_an_inventory_of_wrong_shape_is_refused_by_module_and_schema(inventory: dict[str, Any]) -> None:
    refusal(**inventory)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1, "inventory": inventory}, SCHEMA)


@pytest.mark.parametrize(
    "document", [{}, {"version": True, "inventory": {}}, {"version": 2, "inventory": {}}]
)
def test_another_version_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ls.Refused):
        ls.inventory_of(document)


@pytest.mark.parametrize(
    ("roots", "path"),
    [
        (["/opt/n8n"], "/opt/n8n-2"),
        (["/srv"], "/opt/n8n"),
        (["/opt"], "/opt"),
        (["/opt"], "/opt/tenantfleet"),
        (["/opt"], "/opt/tenantfleet/openclaw"),
        (["/var/lib/n8n", "/var/lib/openclaw"], "/var/lib/openclaw"),
        (["/var/lib/docker"], "/var/lib/docker/volumes"),
        (["/etc/systemd"], "/etc/systemd/system"),
    ],
)
def test_a_path_out_of_its_roots_or_near_what_is_ours_is_refused(roots: list[str], path: str) -> None:
    assert path in refusal(roots=roots, paths={path: "remove"})


@pytest.mark.parametrize("root", ["/", "/etc", "/var", "/var/lib", "/usr", "/usr/local", "/home", "/root"])
def test_a_root_that_is_too_wide_is_refused(root: str) -> None:
    assert "too wide" in refusal(roots=[root])


def test_to_keep_something_in_what_is_to_go_is_refused() -> None:
    paths = {"/opt/n8n": "remove", "/opt/n8n/files": "keep"}
    assert "/opt/n8n/files in it to stay" in refusal(roots=["/opt"], paths=paths)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("units", "tf-egress.service"),
        ("units", "podman.socket"),
        ("nginx_sites", "tenantfleet-crm"),
        ("cron_files", "/etc/cron.d/tf-cleanup"),
    ],
)
def test_a_name_of_this_platform_is_refused(kind: str, name: str) -> None:
    assert "never touched" in refusal(**{kind: {name: "remove"}})


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs/data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(ls.Refused, match="symbolic link"):
        ls.remove_path(f"{tmp_path}/link/data")
    assert (tmp_path / "theirs/data").is_dir()


def test_a_link_that_is_listed_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    assert ls.kind_at(f"{tmp_path}/link") == "link"
    ls.remove_path(f"{tmp_path}/link")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_of_a_directory_links_in_it_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/file").touch()
    (tmp_path / "old/deep").mkdir(parents=True)
    (tmp_path / "old/deep/link").symlink_to(tmp_path / "theirs")
    ls.remove_path(f"{tmp_path}/old")
    ls.remove_path(f"{tmp_path}/old")
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "theirs/file").exists()


def test_from_a_crontab_only_the_exact_line_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ls, "CRONTABS", str(tmp_path))
    (tmp_path / "root").write_text("# mine\n0 1 * * * /opt/a\n0 1 * * * /opt/a --now\nA=1\n")
    (tmp_path / "root").chmod(0o600)
    ls.remove_crontab_lines("root", {"0 1 * * * /opt/a": "remove", "A=1": "keep"})
    assert (tmp_path / "root").read_text() == "# mine\n0 1 * * * /opt/a --now\nA=1\n"
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("0 3 * * * /usr/bin/report --password hunter2", "0 3 * * * /usr/bin/report …"),
        ("@daily /usr/bin/report hunter2", "@daily /usr/bin/report …"),
        ("TOKEN=hunter2", "TOKEN= …"),
        (" TOKEN = hunter2", "TOKEN = …"),
    ],
)
def test_of_a_line_that_nobody_listed_no_argument_is_shown(line: str, shown: str) -> None:
    assert ls.guarded(line) == shown


def test_what_this_platform_wrote_is_known_by_name_link_and_first_line(tmp_path: Path) -> None:
    (tmp_path / "crm").write_text("# Managed by tenantfleet (role tenant_tools).\n")
    (tmp_path / "theirs").write_text("server {}\n# Managed by tenantfleet\n")
    (tmp_path / "linked").symlink_to("/opt/tenantfleet/crm/current/units/crm.service")
    assert [ls.is_ours(str(tmp_path / name)) for name in ("crm", "linked", "tf-x", "theirs")] == [
        True,
        True,
        True,
        False,
    ]


def test_images_are_named_from_disk_when_dockerd_is_down(tmp_path: Path) -> None:
    record = tmp_path / "image/overlay2/repositories.json"
    record.parent.mkdir(parents=True)
    names = {"older/app": {"older/app:1.64": "sha256:0a", "older/app@sha256:0b": "sha256:0a"}}
    record.write_text(json.dumps({"Repositories": names}))
    assert ls.tags_on_disk(str(tmp_path)) == ["older/app:1.64"]


class Answering(BaseHTTPRequestHandler):
    """dockerd as far as a caller sees it: known, unknown, refusing, silent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/silent":
            self.server.hold.wait(30)  # type: ignore[attr-defined]
            return
        status, body = {"/known": (200, b'{"a": 1}'), "/busy": (409, b'{"message": "in use"}')}.get(
            self.path, (404, b"{}")
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dockerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = str(tmp_path / "docker.sock")
    monkeypatch.setattr(ls, "DOCKER_SOCKET", path)
    monkeypatch.setattr(ls, "CALL_S", 0.2)
    with socketserver.ThreadingUnixStreamServer(path, Answering) as server:
        server.daemon_threads = True
        server.hold = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        server.hold.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("dockerd")
def test_dockerds_answers_are_heard_and_what_is_gone_is_nothing() -> None:
    assert ls.Engine().ask("GET", "/known") == {"a": 1}
    assert ls.Engine().ask("GET", "/gone") is None


@pytest.mark.usefixtures("dockerd")
def test_a_refusal_of_dockerd_is_told_in_its_words() -> None:
    with pytest.raises(ls.Refused, match="in use"):
        ls.Engine().ask("GET", "/busy")


@pytest.mark.usefixtures("dockerd")
def test_a_dockerd_that_does_not_answer_is_not_waited_for() -> None:
    with pytest.raises(ls.Refused, match="GET /silent: timed out"):
        ls.Engine().ask("GET", "/silent")
