"""What the lab writes down for others, without booting anything."""

import datetime as dt
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store

from lab import authority, cloud_seed, endpoints, host, lookups
from lab.state import Lab, LabError


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "subnet.json").write_text('{"number": 42}')
    return Lab(tmp_path)


@pytest.fixture
def one(lab: Lab) -> host.Host:
    fresh = host.new(lab, "a1", region="eu-lab", disk=None)
    fresh.make_pristine(cloud_seed.seed(fresh))
    return fresh


def test_a_lab_is_named_after_its_folder_so_that_two_never_meet(tmp_path: Path) -> None:
    assert Lab(tmp_path / "one").bridge != Lab(tmp_path / "two").bridge


def test_a_bridge_name_fits_into_an_interface_name(lab: Lab) -> None:
    assert len(lab.bridge) <= 15


def test_addresses_of_both_families_show_the_same_numbers(lab: Lab) -> None:
    assert (lab.address(11), lab.address6(11)) == ("10.77.42.11", "fd77:42::11")


def test_the_machines_file_follows_the_contract(lab: Lab, one: host.Host) -> None:
    lookups.write(lab)
    written = yaml.safe_load((lab.root / "machines.yml").read_text())
    assert written == {
        "version": 1,
        "machines": [
            {
                "id": "lab-a1",
                "region": "eu-lab",
                "site": "lab",
                "address": one.address,
                "host_ca": authority.host_ca(lab),
                "user": "debian",
            }
        ],
    }


def test_the_seed_certifies_its_host_key_for_the_name_and_both_addresses(one: host.Host) -> None:
    config = yaml.safe_load((one.folder / "seed/user-data").read_text())
    certificate = serialization.load_ssh_public_identity(config["ssh_keys"]["ed25519_certificate"].encode())
    assert isinstance(certificate, serialization.SSHCertificate)
    certificate.verify_cert_signature()
    assert {b"a1", b"lab-a1", b"10.77.42.11", b"fd77:42::11"} <= set(certificate.valid_principals)


def test_a_seed_never_carries_the_host_key_of_an_earlier_one(one: host.Host) -> None:
    keys = {yaml.safe_load(cloud_seed.seed(one)["user-data"])["ssh_keys"]["ed25519_public"] for _ in range(2)}
    assert len(keys) == 2


def test_the_seed_is_readable_by_root_alone(one: host.Host) -> None:
    assert {path.stat().st_mode & 0o777 for path in (one.folder / "seed").iterdir()} == {0o600}


def test_services_show_a_certificate_that_a_strict_client_accepts(lab: Lab) -> None:
    shown, _ = authority.service_certificate(lab, names=[endpoints.STORE_NAME], addresses=[lab.gateway6])
    ca = x509.load_pem_x509_certificate(authority.ca_certificate(lab).encode())
    verifier = (
        PolicyBuilder()
        .store(Store([ca]))
        .time(dt.datetime.now(dt.UTC))
        .build_server_verifier(x509.DNSName(endpoints.STORE_NAME))
    )
    verifier.verify(x509.load_pem_x509_certificate(shown.read_bytes()), [])


def test_info_names_everything_that_other_parts_ask_for(lab: Lab) -> None:
    told = json.loads(json.dumps(endpoints.info(lab)))
    wanted = "gateway gateway6 subnet subnet6 dns ntp apt_proxy registry store_url store_dir model_url"
    wanted += " model_record_dir ca_file machines_file ssh_config"
    assert set(wanted.split()) <= set(told)


def test_hosts_take_the_lowest_free_address(lab: Lab, one: host.Host) -> None:
    host.new(lab, "a2", region="eu-lab", disk=None).make_pristine({})
    host.remove(lab, one.name)
    assert host.new(lab, "a3", region="eu-lab", disk=None).number == one.number


@pytest.mark.parametrize("name", ["", "-a", "a-", "A1", "a/b", "..", "a" * 33])
def test_a_name_that_is_no_host_name_is_refused(lab: Lab, name: str) -> None:
    with pytest.raises(LabError, match="not a host name"):
        host.new(lab, name, region="eu-lab", disk=None)


@pytest.mark.parametrize("disk", ["12", "G", "0G", "-1G", "12g", "1G --help"])
def test_a_disk_size_that_is_none_is_refused(lab: Lab, disk: str) -> None:
    with pytest.raises(LabError, match="not a disk size"):
        host.new(lab, "a1", region="eu-lab", disk=disk)


def test_a_reset_forgets_disk_and_seed_but_keeps_the_address(lab: Lab, one: host.Host) -> None:
    marker = one.disk_folder / "upper/marker"
    marker.parent.mkdir()
    marker.touch()
    replace(one, machine_uuid="another").make_pristine({"meta-data": "{}"})
    again = host.Host.load(lab, "a1")
    assert (again.number, again.machine_uuid, marker.exists()) == (one.number, "another", False)


def test_the_trash_is_emptied_even_of_immutable_files(lab: Lab) -> None:
    stubborn = lab.root / "stubborn"
    stubborn.mkdir()
    (stubborn / "file").touch()
    done = subprocess.run(["chattr", "+i", stubborn / "file"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this file system or user has no immutable files")
    lab.discard(stubborn)
    lab.empty_trash()
    assert not (lab.root / "trash").exists()
