"""What the cloud's repository publishes is what the device's trust client takes, and the other way round."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgecase_agent.orders import Orders, PolicyFile, try_policy
from edgecase_agent.slots import Slots
from edgecase_agent.trust import Trust
from edgecase_agent.update import Followed, NotDue, Switched, Update, UpToDate, try_bundle
from edgecase_models.bundle import sha256_of
from edgecase_models.policy import Policy
from support.bundles import a_bundle

pytest.importorskip("sqlalchemy", reason="the repository is part of edgecase[cloud]")


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The cloud's data folder, and an address under which its releases are served as `/tuf/…`."""
    data = tmp_path / "cloud"
    (data / "www").mkdir(parents=True)
    (data / "releases").mkdir()
    (data / "www" / "tuf").symlink_to(data / "releases", target_is_directory=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(data / "www")))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield data, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_device_takes_each_release_of_the_cloud_and_none_twice(served: tuple[Path, str], tmp_path: Path) -> None:
    from edgecase_cloud.release import Repository

    data, url = served
    repository = Repository(data)
    repository.ensure()
    slots = Slots(tmp_path / "slots")
    seed = a_bundle(tmp_path / "seed.tar", "seed")
    slots.start(seed.path)
    trust = Trust(tmp_path / "trust", url, repository.trust_root(), max_bundle_bytes=1 << 30)
    update = Update(slots, trust, tmp_path, try_bundle, poll_s=1)

    assert update.step(0) == UpToDate("nothing was released yet")
    repository.publish(seed.path, name="tiny", version="seed", release=1)
    assert update.step(10) == UpToDate("runs release 1")
    for release in (2, 3):
        new = a_bundle(tmp_path / f"{release}.tar", str(release))
        repository.publish(new.path, name="tiny", version=str(release), release=release)
        assert update.step(release * 10) == Switched(new.digest, release)
        active = slots.active()
        assert active is not None
        assert sha256_of(active.path) == new.digest
    assert update.policy == NotDue(0), "a device that follows no policies asks for none"
    repository.refresh()
    assert update.step(100) == UpToDate("runs release 3")


def test_a_device_follows_each_policy_of_the_cloud_until_it_is_withdrawn(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    from edgecase_cloud.release import Repository

    data, url = served
    repository = Repository(data)
    repository.ensure()
    slots = Slots(tmp_path / "slots")
    slots.start(a_bundle(tmp_path / "seed.tar", "seed").path)
    trust = Trust(tmp_path / "trust", url, repository.trust_root(), max_bundle_bytes=1 << 30, cohorts=("van-1", "van"))
    file = PolicyFile(tmp_path / "policy")
    update = Update(slots, trust, tmp_path, try_bundle, Orders(file, try_policy), poll_s=1)
    for number, cohort in enumerate(("default", "van", "default")):
        repository.publish_policy(Policy(name=f"{cohort}-{number}").to_json(), cohort=cohort)
        update.step(10 * number)
        assert file.content() == Policy(name=("default-0", "van-1", "van-1")[number]).to_json()
    repository.withdraw_policy(cohort="van")
    update.step(100)
    assert update.policy == Followed(Policy(name="default-2").digest)
    repository.withdraw_policy()
    update.step(110)
    assert (update.policy, file.content()) == (Followed(""), None)
