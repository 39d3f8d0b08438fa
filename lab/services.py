"""The services of a lab: DNS, package cache, time, image registry, release store, model server."""

import sys
import textwrap
from pathlib import Path

from lab import authority, machine
from lab.endpoints import (
    APT_PORT,
    MODEL_NAME,
    MODEL_PORT,
    REGISTRY_NAME,
    REGISTRY_PORT,
    STORE_NAME,
    STORE_PORT,
)
from lab.service import SERVICE_FOLDER, STORE_FOLDER, Service, answers_ntp, answers_tcp
from lab.state import Lab

_HERE = SERVICE_FOLDER


def all_of(lab: Lab) -> list[Service]:
    return [_dns(lab), _apt_cache(lab), _time(lab), _web(lab), _registry(lab), _model(lab)]


def _dns(lab: Lab) -> Service:
    both = f"{lab.gateway},{lab.gateway6}"
    argv = (
        "dnsmasq", "--keep-in-foreground", "--conf-file", "--user=root", "--log-facility=-", "--pid-file",
        "--bind-interfaces", f"--listen-address={both}", "--except-interface=lo",
        "--no-hosts", f"--hostsdir={_HERE}/hosts", "--local=/lab.test/",
        f"--host-record={REGISTRY_NAME},{both}", f"--host-record={STORE_NAME},{both}",
        f"--host-record={MODEL_NAME},{lab.gateway}",  # the model server listens on one address
    )  # fmt: skip
    return Service(
        name="dns",
        argv=argv,
        folders=("hosts",),
        ready=lambda: answers_tcp((lab.gateway, 53), (lab.gateway6, 53)),
    )


def _apt_cache(lab: Lab) -> Service:
    proxy = machine.apt_proxy()
    settings = [
        f"CacheDir: {_HERE}/cache",
        f"LogDir: {_HERE}/logs",
        "SocketPath: /run/apt-cacher-ng.socket",
        f"Port: {APT_PORT}",
        f"BindAddress: {lab.gateway}",  # its parser takes no IPv6 address
        "ForeGround: 1",
        "ExThreshold: 30",
        "PassThroughPattern: .*",
        *([f"Proxy: {proxy}"] if proxy else []),
    ]
    return Service(
        name="apt-cache",
        argv=("apt-cacher-ng", "-c", f"{_HERE}/config"),
        files={"config/acng.conf": "\n".join(settings) + "\n"},
        folders=("cache", "logs"),
        ready=lambda: answers_tcp((lab.gateway, APT_PORT)),
    )


def _time(lab: Lab) -> Service:
    settings = f"""
        local stratum 8
        bindaddress {lab.gateway}
        bindaddress {lab.gateway6}
        allow {lab.subnet}
        allow {lab.subnet6}
        cmdport 0
        pidfile /run/chronyd.pid
    """
    return Service(
        name="time",
        argv=(
            "chronyd",
            "-x",
            "-d",
            "-u",
            "root",
            "-f",
            f"{_HERE}/chrony.conf",
        ),  # -x: never touches the clock
        files={"chrony.conf": "\n".join(line.strip() for line in settings.splitlines())},
        ready=lambda: answers_ntp(lab.gateway),
    )


def _registry(lab: Lab) -> Service:
    settings = f"""
        version: 0.1
        log: {{level: warn, accesslog: {{disabled: true}}}}
        storage:
          filesystem: {{rootdirectory: {_HERE}/storage}}
          delete: {{enabled: true}}
        http: {{addr: "{_registry_behind(lab)}"}}
    """
    address, _, port = _registry_behind(lab).partition(":")
    return Service(
        name="registry",
        argv=("docker-registry", "serve", f"{_HERE}/config.yml"),
        files={"config.yml": textwrap.dedent(settings)},
        folders=("storage",),
        ready=lambda: answers_tcp((address, int(port))),
    )


def _registry_behind(lab: Lab) -> str:
    """Where the registry itself listens, on one address only: nginx gives it TLS and both families."""
    return f"127.77.{lab.number}.1:{REGISTRY_PORT}"


def _web(lab: Lab) -> Service:
    certificate, key = _tls(lab)

    def listen(port: int) -> str:
        return f"listen {lab.gateway}:{port} ssl; listen [{lab.gateway6}]:{port} ssl;"

    settings = f"""
        daemon off;
        pid /run/nginx.pid;
        error_log stderr warn;
        user www-data;
        worker_processes 2;
        events {{}}
        http {{
            access_log off;
            default_type application/octet-stream;
            ssl_certificate {_HERE}/tls.crt;
            ssl_certificate_key {_HERE}/tls.key;
            client_body_temp_path /tmp/body;
            proxy_temp_path /tmp/proxy;
            fastcgi_temp_path /tmp/fastcgi;
            uwsgi_temp_path /tmp/uwsgi;
            scgi_temp_path /tmp/scgi;
            server {{
                {listen(STORE_PORT)}
                root {STORE_FOLDER};
            }}
            server {{
                {listen(REGISTRY_PORT)}
                client_max_body_size 0;
                location / {{
                    proxy_pass http://{_registry_behind(lab)};
                    proxy_http_version 1.1;
                    proxy_request_buffering off;
                    proxy_buffering off;
                    proxy_read_timeout 900s;
                    proxy_set_header Host $http_host;
                    proxy_set_header X-Forwarded-Proto https;
                }}
            }}
        }}
    """
    return Service(
        name="web",
        argv=("nginx", "-e", "stderr", "-c", f"{_HERE}/nginx.conf"),
        files={
            "nginx.conf": textwrap.dedent(settings),
            "tls.crt": certificate.read_text(),
            "tls.key": key.read_text(),
        },
        ready=lambda: answers_tcp((lab.gateway, STORE_PORT), (lab.gateway6, REGISTRY_PORT)),
    )


def _tls(lab: Lab) -> tuple[Path, Path]:
    names = [REGISTRY_NAME, STORE_NAME, MODEL_NAME]
    return authority.service_certificate(lab, names=names, addresses=[lab.gateway, lab.gateway6])


def _model(lab: Lab) -> Service:
    certificate, key = _tls(lab)
    records = lab.services / "model/records"
    argv = (
        sys.executable, "-m", "lab.model_server", "--listen", f"{lab.gateway}:{MODEL_PORT}",
        "--tls-cert", str(certificate), "--tls-key", str(key), "--record-dir", str(records),
    )  # fmt: skip
    return Service(
        name="model",
        argv=argv,
        folders=("records",),
        on_machine=True,
        ready=lambda: answers_tcp((lab.gateway, MODEL_PORT)),
    )


def start_all(lab: Lab) -> None:
    """Start what does not run; return when all of it serves."""
    lab.services.mkdir(mode=0o700, exist_ok=True)
    lab.store.mkdir(mode=0o755, exist_ok=True)
    services = all_of(lab)
    for service in services:
        service.start(lab)
    for service in services:
        service.wait(lab)


def publish_names(lab: Lab, names: dict[str, tuple[str, str]]) -> None:
    """Let `<name>.lab.test` be found at these (IPv4, IPv6) addresses. dnsmasq watches the folder."""
    lines = [f"{address} {name}.lab.test" for name, both in names.items() for address in both]
    target = lab.services / "dns/hosts/names"
    if target.parent.exists():
        target.write_text("\n".join(lines) + "\n")
