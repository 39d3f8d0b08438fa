import threading
from pathlib import Path

import pytest

from tenantfleet.release.cache import Cache


def test_a_second_request_for_the_same_key_builds_nothing(tmp_path: Path) -> None:
    cache, built = Cache(tmp_path), []

    def build(target: Path) -> None:
        built.append(target)
        target.write_text("result")

    first = cache.get("thing", "a" * 64, build)
    assert cache.get("thing", "a" * 64, build) == first
    assert first.read_text() == "result"
    assert cache.get("thing", "b" * 64, build) != first
    assert len(built) == 2


def test_an_interrupted_step_leaves_no_result_and_does_not_disturb_the_next(tmp_path: Path) -> None:
    def fail(target: Path) -> None:
        target.mkdir()
        (target / "half").write_text("")
        raise RuntimeError

    def succeed(target: Path) -> None:
        target.mkdir()

    with pytest.raises(RuntimeError):
        Cache(tmp_path).get("thing", "a" * 64, fail)
    assert list(Cache(tmp_path).get("thing", "a" * 64, succeed).iterdir()) == []


def test_two_who_ask_at_once_get_one_build(tmp_path: Path) -> None:
    started, go_on, built = threading.Event(), threading.Event(), []

    def build(target: Path) -> None:
        started.set()
        go_on.wait(30)
        built.append(target)
        target.write_text("")

    ask = [threading.Thread(target=Cache(tmp_path).get, args=("thing", "a" * 64, build)) for _ in range(2)]
    ask[0].start()
    assert started.wait(30)
    ask[1].start()
    go_on.set()
    for thread in ask:
        thread.join(30)
    assert len(built) == 1
