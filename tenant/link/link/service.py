"""The loop: look, number, sign, write, wait."""

import logging
import os
import random
import signal
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from link.config import Config
from link.envelope import private_key, public_pem, seal
from link.heartbeat import heartbeat
from link.observation import observe
from link.spool import Sequence, write_whole

log = logging.getLogger("tf-link")
JITTER = 0.1  # of the interval, to both sides: a fleet that boots together does not beat together


def tell_systemd(words: str) -> None:
    """sd_notify(3); silent when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(words.encode(), target)


class Link:
    def __init__(self, config: Config, key: Ed25519PrivateKey) -> None:
        self._config = config
        self._key = key
        self._sequence = Sequence(config.state_dir / "sequence")
        self.stopping = threading.Event()

    def beat(self) -> int:
        """Write one heartbeat, return its number. Raises OSError or ValueError when the disk refuses."""
        seen = observe(self._config)
        number = self._sequence.next()
        document = heartbeat(seen, tenant_id=self._config.tenant_id, sequence=number, at=datetime.now(UTC))
        write_whole(self._config.spool / "heartbeat.json", seal(document, self._key))
        return number

    def run(self) -> None:
        """Beat until told to stop; a beat that fails is reported, and the next one tried in its turn."""
        write_whole(self._config.spool / "node_key.pub", public_pem(self._key))
        while not self.stopping.is_set():
            try:
                number = self.beat()
            except (OSError, ValueError) as error:
                log.error("no heartbeat: %s", error)  # noqa: TRY400 - the sentence says all, a traceback nothing more
            else:
                tell_systemd(f"READY=1\nWATCHDOG=1\nSTATUS=Heartbeat {number}")
            self.stopping.wait(
                self._config.interval_s * random.SystemRandom().uniform(1 - JITTER, 1 + JITTER)
            )


def serve(config: Config, credentials: Path) -> None:
    """Run until SIGTERM. Raises OSError or EnvelopeError when the key is missing or unusable."""
    link = Link(config, private_key((credentials / "node_key").read_bytes()))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: link.stopping.set())
    link.run()
    tell_systemd("STOPPING=1")
