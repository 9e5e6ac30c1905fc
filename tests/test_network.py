"""A new network: whole, or not there at all."""

import os

import pytest

from vmctl import config, durable, identity, keys, network
from vmctl.config import Address
from vmctl.errors import BadName, ConfigFaults, DiskFull, NotEmpty, StoreUnusable


def test_a_network_is_complete(tmp_path):
    """The config loads, both stores are theirs, and each key's public half is the one in the config."""
    made = network.make(tmp_path / "above" / "voice net")
    assert made == config.load(tmp_path / "above" / "voice net" / "vmctl.yaml")
    assert made.network == "voice-net"
    assert [server.name for server in made.here()] == ["primary", "secondary"]
    for server in made.here():
        assert identity.read(server.store, "voice-net", server.name).server == server.name
        assert (server.public_key, server.seal_key) == keys.load_private(server.key).public
        assert {"callflows", "prompts", "mailboxes", ".vmctl"} == {entry.name for entry in server.store.iterdir()}
    assert [(service.name, service.home) for service in made.services.values()] == [("voicemail", "primary")]
    assert made.servers["primary"].address == Address("127.0.0.1", 2525)
    assert made.servers["secondary"].mail == "vmsync@secondary.voice-net.invalid"


def test_two_services_in_dual_active(tmp_path):
    """In dual-active each server is the home of a service with its name."""
    made = network.make(tmp_path, network="n1", mode="dual-active")
    assert [(service.name, service.home) for service in made.services.values()] == [
        ("primary", "primary"),
        ("secondary", "secondary"),
    ]


def test_own_addresses(tmp_path):
    """Addresses that are given stand in the config, IPv6 too."""
    addresses = {"primary": Address("::1", 4000), "secondary": Address("vm2.example", 4001)}
    made = network.make(tmp_path, addresses=addresses)
    assert addresses == {name: server.address for name, server in made.servers.items()}


@pytest.mark.parametrize(
    ("name", "expected"), [("Zürich 1", "Z-rich-1"), ("--x--", "x"), ("ü", "voicemail"), ("a" * 99, "a" * 64)]
)
def test_a_name_from_the_directory(tmp_path, name, expected):
    """Any directory gives a network a name that is allowed."""
    assert network.make(tmp_path / name).network == expected


@pytest.mark.parametrize("name", ["a" * 64, "under_score", "x__"])
def test_every_name_gives_mail_addresses(tmp_path, name):
    """Every name of a network gives mail addresses that the config takes."""
    assert network.make(tmp_path, network=name).network == name


def test_a_directory_in_use(tmp_path):
    """What is in the directory stays, a second network is not made over the first, and a file is no directory."""
    network.make(tmp_path / "net")
    before = (tmp_path / "net" / "vmctl.yaml").read_bytes()
    with pytest.raises(NotEmpty, match="is not empty"):
        network.make(tmp_path / "net")
    assert before == (tmp_path / "net" / "vmctl.yaml").read_bytes()
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotEmpty, match="is a file"):
        network.make(tmp_path / "file")


def test_faults_leave_nothing(tmp_path):
    """A name, a mode or addresses that are refused leave no trace, not even the directories above."""
    same = {"secondary": Address("127.0.0.1", 2525)}
    with pytest.raises(BadName):
        network.make(tmp_path / "a" / "b", network="../x")
    with pytest.raises(ConfigFaults) as caught:
        network.make(tmp_path / "a" / "b", mode="solo")
    assert [fault["key"] for fault in caught.value.faults] == ["mode"]
    with pytest.raises(ConfigFaults):
        network.make(tmp_path / "a" / "b", addresses=same)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existed", [True, False])
def test_a_disk_that_fails_at_each_step_leaves_nothing(tmp_path, monkeypatch, existed):
    """Whichever fsync fails, the directory is as it was before, and the next try succeeds."""
    directory = tmp_path / "net"
    for step in range(200):
        if existed:
            directory.mkdir(exist_ok=True)
        calls = iter(range(1000))

        def fail(fd, step=step, calls=calls):
            if next(calls) == step:
                raise OSError(28, "No space left on device")
            os.fsync(fd)

        with monkeypatch.context() as patch:
            patch.setattr(durable, "_fsync", fail)
            try:
                network.make(directory)
            except DiskFull:
                assert directory.exists() == existed
                assert not existed or list(directory.iterdir()) == []
                continue
        break
    assert step > 10
    assert config.load(directory / "vmctl.yaml").network == "net"


def test_somebody_elses_file_survives_a_failure(tmp_path, monkeypatch):
    """What another put into the directory meanwhile is left when the making fails."""

    def create(store, *rest):
        (tmp_path / "net" / "note.txt").write_text("mine")
        raise StoreUnusable("the disk is gone")

    monkeypatch.setattr(identity, "create", create)
    with pytest.raises(StoreUnusable):
        network.make(tmp_path / "net")
    assert [entry.name for entry in (tmp_path / "net").iterdir()] == ["note.txt"]
