"""vmctl.yaml: every fault at once, each with its mend, and one table behind reading, template and docs."""

import os
import re
from pathlib import Path

import pytest

from vmctl import config, config_keys, yamltext
from vmctl.config import Address
from vmctl.errors import ConfigFaults, ConfigMissing
from vmctl.keys import public_text

DOCS = Path(__file__).parent.parent / "docs" / "config.md"
PUBLIC = {"primary": public_text(bytes(32)), "secondary": public_text(bytes([1]) * 32)}


def values_of(mode="active-standby", **changes):
    """The least that a network of two servers on this host needs, by path; `a__b` stands for `a.b`, None removes."""
    values = {"network": "net", "mode": mode}
    for port, name in enumerate(("primary", "secondary"), 2525):
        values |= {
            f"servers.{name}.store": name,
            f"servers.{name}.address": f"127.0.0.1:{port}",
            f"servers.{name}.mail": f"vmsync@{name}.invalid",
            f"servers.{name}.key": f"keys/{name}.pem",
            f"servers.{name}.public_key": PUBLIC[name],
        }
    homes = {"voicemail": "primary"} if mode == "active-standby" else {"one": "primary", "two": "secondary"}
    values |= {f"services.{name}.home": home for name, home in homes.items()}
    values |= {"servers.secondary.licensed": True} if mode == "dual-active" else {}
    values |= {path.replace("__", "."): value for path, value in changes.items()}
    return {path: value for path, value in values.items() if value is not None}


def document_of(values):
    """The nested mapping of values by path."""
    document = {}
    for path, value in values.items():
        *above, last = path.split(".")
        node = document
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return document


def parsed(values, directory=Path("/srv/vm")):
    """The config of values by path."""
    return config.parse(yamltext.dump(document_of(values)), directory / "vmctl.yaml")


def faults_of(text, path=Path("/srv/vm/vmctl.yaml")):
    """The faults of a text or of values by path, as (key, why, mend)."""
    text = text if isinstance(text, (str, bytes)) else yamltext.dump(document_of(text))
    with pytest.raises(ConfigFaults) as caught:
        config.parse(text, path)
    assert all(fault["file"] == str(path) for fault in caught.value.faults)
    count = len(caught.value.faults)
    assert caught.value.what == f"{count} fault{'s' if count > 1 else ''} in {path}"
    return [(fault["key"], fault["why"], fault["mend"]) for fault in caught.value.faults]


def only_fault(values):
    """The single fault of values by path."""
    (fault,) = faults_of(values)
    return fault


def test_defaults():
    """What is left out has its default, in seconds and bytes, and paths are taken from the file's directory."""
    made = parsed(values_of())
    assert made.failover == config.Failover(180.0, True, False, 60.0, 3)
    assert made.failback == config.Failback("graceful", "completed", 60.0, 3600.0)
    assert made.sync == config.Sync(10.0, 10.0, 30.0)
    assert made.scan == config.Scan(2.0, 60.0, 3600.0, 0.2, 2.0)
    assert made.mail == config.Mail(16_000_000, "auto")
    assert made.audio == config.Audio(("wav",), 1200.0)
    assert made.limits == config.Limits(100, 100_000, 64_000)
    primary = made.servers["primary"]
    assert (primary.store, primary.key) == (Path("/srv/vm/primary"), Path("/srv/vm/keys/primary.pem"))
    assert primary.listen == primary.address == Address("127.0.0.1", 2525)
    assert primary.here
    assert made.services == {"voicemail": config.Service("voicemail", "primary", (), (), (), ())}
    assert made.peer_of("primary").name == "secondary"
    assert made.peer_of("secondary").name == "primary"


def test_a_server_on_another_host():
    """A server without store and key is elsewhere, and may listen on the same port there."""
    elsewhere = {"servers__secondary__store": None, "servers__secondary__key": None}
    listens = {f"servers__{name}__listen": "0.0.0.0:2525" for name in PUBLIC}
    made = parsed(values_of(**elsewhere, **listens))
    assert [server.name for server in made.here()] == ["primary"]
    assert not made.servers["secondary"].here


def test_extensions_find_their_service():
    """A listed extension has its service, written with or without quotes; another has none."""
    changes = {"services__one__extensions": [201, "0202"], "services__two__extensions": ["301"]}
    made = parsed(values_of("dual-active", **changes))
    assert made.services["one"].extensions == ("201", "0202")
    assert made.service_of_extension("201") is made.services["one"]
    assert made.service_of_extension("0202") is made.services["one"]
    assert made.service_of_extension("301") is made.services["two"]
    assert made.service_of_extension("999") is None


def test_the_digest_is_of_the_network_only():
    """Two hosts with their own stores, keys, listeners and scans agree; a timer or a trunk makes the difference."""
    base = parsed(values_of())
    own = {"servers__primary__store": None, "servers__primary__key": None, "servers__secondary__listen": "[::]:25"}
    assert base.digest == parsed(values_of(**own, scan__settle="3s")).digest
    assert base.digest == parsed(values_of(failover__after="3m")).digest
    assert base.digest != parsed(values_of(failover__after="181s")).digest
    assert base.digest != parsed(values_of(services__voicemail__trunks=["t1"])).digest
    trunks = [parsed(values_of(services__voicemail__trunks=order)).digest for order in (["a", "b"], ["b", "a"])]
    assert trunks[0] == trunks[1]
    assert re.fullmatch(r"[0-9a-f]{16}", base.digest)


def test_all_faults_at_once():
    """Everything that is wrong is told in one go, each with its key."""
    values = values_of(network="no/name", failover__after=180, mail__max="2GB", limits__quota=0, audio__formats=[])
    values |= {"servers.primary.address": "nowhere", "failback.polciy": "manual", "sync": "often"}
    keys = [key for key, _, _ in faults_of(values)]
    assert keys == [
        "network", "servers.primary.address", "failover.after", "failback.polciy", "sync", "mail.max",
        "audio.formats", "limits.quota",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "why", "mend"),
    [
        ("network", "a/b", "is no name", "letters, digits"),
        ("network", None, "missing", "letters, digits"),
        ("mode", "solo", "none of them", "active-standby or dual-active"),
        ("servers.primary.store", "~/vm", "not expanded", "a path"),
        ("servers.primary.store", "a\0b", "is no path", "a path"),
        ("servers.primary.store", 7, "is no text", "a path"),
        ("servers.primary.format", "maildir", "none of them", "native or asterisk"),
        ("servers.primary.address", "127.0.0.1", "is not a host", "host:port"),
        ("servers.primary.address", "127.0.0.1:0", "is no port", "host:port"),
        ("servers.primary.address", "127.0.0.1:65536", "is no port", "host:port"),
        ("servers.primary.address", "::1:25", "is not a host", "host:port"),
        ("servers.primary.address", "[::g]:25", "Only hex digits|is not a host", "host:port"),
        ("servers.primary.address", "a b:25", "is no host name", "host:port"),
        ("servers.primary.address", "0.0.0.0:25", "no place to send to", "own address"),
        ("servers.primary.mail", "Primary <p@example.com>", "no such address", "name@domain"),
        ("servers.primary.mail", "p@example.com\r\nRCPT TO:<x@y>", "no such address", "name@domain"),
        ("servers.primary.mail", "a" * 65 + "@example.com", "no such address", "name@domain"),
        ("servers.primary.public_key", "ed25519:AAAA", "is not 'ed25519:'", "base64"),
        ("servers.third.store", "x", "two servers", "rename or remove"),
        ("services.voicemail.home", "third", "none of them", "primary or secondary"),
        ("services.voicemail.extensions", "201", "is no list", "a list of extensions"),
        ("services.voicemail.extensions", ["../x"], "not allowed", "a list of extensions"),
        ("services.voicemail.extensions", [201, "201"], "twice", "a list of extensions"),
        ("services.voicemail.trunks", [1.5], "is no text", "a list of names"),
        ("failover.after", 180, "lacks a unit", "a duration from"),
        ("failover.after", "3 weeks", "no duration", "a duration from"),
        ("failover.after", "8d", "out of this range", "100ms to 7d"),
        ("failover.after", "9" * 12 + "h", "out of this range", "100ms to 7d"),
        ("failover.after", "9" * 30 + "h", "no duration", "100ms to 7d"),
        ("failover.after", "9" * 300 + "h", "too long", "100ms to 7d"),
        ("failover.automatic", "yes", "neither", "true or false"),
        ("failback.timeout", "61m", "out of this range", "0s to 60m"),
        ("mail.max", 16_000_000, "lacks a unit", "a size from"),
        ("mail.max", "63kB", "out of this range", "64kB to 512MB"),
        ("mail.max", "16 megs", "no size", "a size from"),
        ("audio.formats", ["WAV"], "not allowed", "lower-case"),
        ("audio.formats", [], "empty", "at least one"),
        ("limits.quota", True, "no such number", "whole number"),
        ("limits.quota", 100_001, "no such number", "1 to 100000"),
        ("arbiter.endpoints", ["127.0.0.1:2379"], "no such URL", "a list of URLs"),
        ("arbiter.endpoints", "http://127.0.0.1:2379", "no list", "a list of URLs"),
        ("arbiter.prefix", "vmctl", "no such path", "/vmctl"),
        ("health.command", "true", "no list of words", "no shell"),
        ("hooks.on_active", [""], "names no program", "no shell"),
        ("reachability.targets", ["gateway"], "is not a host", "host:port"),
        ("webhooks.portal.url", "ftp://portal/", "no such URL", "http"),
        ("failovr.after", "3m", "no such key", "'failover'"),
        ("failover.aftr", "3m", "no such key", "'after'"),
        ("failover.zzz", "3m", "no such key", "known here are after"),
    ],
)
def test_one_fault(path, value, why, mend):
    """Each fault names its key, what is wrong and how to write it."""
    values = values_of()
    values.pop(path, None)
    if value is not None:
        values[path] = value
    faults = [fault for fault in faults_of(values) if fault[0] in path]
    assert len(faults) == 1
    assert re.search(why, faults[0][1])
    assert mend in faults[0][2]


@pytest.mark.parametrize(
    ("changes", "key", "why"),
    [
        ({"servers__secondary__address": "127.0.0.1:2525"}, "servers.secondary.address", "primary's address"),
        ({"servers__secondary__address": "localhost:2525"}, "servers.secondary.address", "primary's address"),
        (
            {"servers__primary__listen": "0.0.0.0:2526", "servers__secondary__listen": "127.0.0.1:2526"},
            "servers.secondary.listen",
            "takes this port",
        ),
        ({"servers__secondary__listen": "127.0.0.1:2525"}, "servers.secondary.listen", "takes this port"),
        ({"servers__secondary__mail": "VMsync@primary.invalid"}, "servers.secondary.mail", "mail address"),
        ({"servers__secondary__public_key": PUBLIC["primary"]}, "servers.secondary.public_key", "primary's key"),
        ({"servers__secondary__store": "./x/../primary"}, "servers.secondary.store", "same directory"),
        ({"servers__secondary__store": "primary/inside"}, "servers.secondary.store", "inside the primary's"),
        ({"servers__primary__store": "/srv/vm/secondary/x"}, "servers.primary.store", "inside the secondary's"),
        ({"servers__secondary__key": None}, "servers.secondary.key", "'store' is given"),
        ({"servers__secondary__store": None}, "servers.secondary.store", "'key' is given"),
        ({"sync__heartbeat": "61s"}, "failover.after", "at least three times sync.heartbeat"),
        ({"failover__start_wait": "180s"}, "failover.start_wait", "shorter than failover.after"),
        ({"scan__debounce": "3s"}, "scan.debounce", "at most scan.debounce_max"),
        ({"limits__document": "1MiB"}, "limits.document", "at least 16 times"),
        ({"services__voicemail__home": "secondary"}, "services.voicemail.home", "is primary"),
        ({"services__more__home": "primary"}, "services.more.home", "both services are at home on the primary"),
        ({"arbiter__endpoints": ["http://a:2379"], "lease__ttl": "181s"}, "lease.ttl", "at most failover.after"),
        (
            {"arbiter__endpoints": ["http://a:2379"], "lease__ttl": "29s"},
            "lease.ttl",
            "at least three times sync.heart",
        ),
        ({"routes__file": "routes.json"}, "routes.file", "each would write over what the other wrote"),
        ({"arbiter__cert": "a.pem"}, "arbiter.cert_key", "the other of the two is given"),
    ],
)
def test_what_does_not_fit_together(changes, key, why):
    """Values that are well alone but wrong together are one fault that names the key to change."""
    fault = only_fault(values_of(**changes))
    assert key == fault[0]
    assert why in fault[1]
    assert fault[2]


def test_dual_active_has_a_home_each():
    """Two services on one home, and a member of both, are faults."""
    changes = {f"services__{name}__{part}": ["x"] for name in ("one", "two") for part in ("extensions", "applications")}
    assert only_fault(values_of("dual-active", services__two__home=None))[0] == "services"
    faults = faults_of(values_of("dual-active", services__two__home="primary", **changes))
    assert [key for key, _, _ in faults] == [
        "services.two.home",
        "services.two.extensions",
        "services.two.applications",
    ]


def test_dual_active_needs_a_licence_of_the_secondary():
    """Without it the mode is refused, and the fault says what to write."""
    key, why, mend = only_fault(values_of("dual-active", servers__secondary__licensed=None))
    assert key == "mode"
    assert "not licensed" in why
    assert "licensed: true" in mend


def test_two_services_may_wait_for_dual_active():
    """In active-standby the primary is the home of both of them, whatever they say."""
    made = parsed(values_of(services__more__home="secondary"))
    assert made.homes("active-standby") == {"voicemail": "primary", "more": "primary"}
    assert made.homes("dual-active") == {"voicemail": "primary", "more": "secondary"}


def test_webhooks_have_names():
    """Each has its URL, and its secret is a path from the directory of the file."""
    made = parsed(values_of(webhooks__portal__url="https://portal:8443/vm", webhooks__portal__secret="portal.key"))
    assert made.webhooks == {"portal": config.Webhook("https://portal:8443/vm", Path("/srv/vm/portal.key"))}


def test_a_store_is_needed_here():
    """A config without any store is for no host."""
    parts = {f"servers__{name}__{part}": None for name in PUBLIC for part in ("store", "key")}
    assert only_fault(values_of(**parts))[:2] == ("servers", "no server has a store on this host")


def test_a_faulty_store_is_one_fault():
    """A store that is given with a fault is not reported as missing too."""
    assert only_fault(values_of(servers__primary__store="~/x"))[0] == "servers.primary.store"


def test_stores_behind_symlinks(tmp_path):
    """One directory under two names is one store, and so is a directory reached through a link into the other."""
    (tmp_path / "primary").mkdir()
    (tmp_path / "link").symlink_to("primary")
    path = tmp_path / "vmctl.yaml"
    for store in ("link", "link/below"):
        text = yamltext.dump(document_of(values_of(servers__secondary__store=store)))
        assert [key for key, _, _ in faults_of(text, path)] == ["servers.secondary.store"]


def test_a_missing_server():
    """With one server only the other one is asked for, not each of its keys."""
    values = {path: value for path, value in values_of().items() if not path.startswith("servers.secondary")}
    assert only_fault(values)[0] == "servers.secondary"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("network: a\nnetwork: b\n", "line 2, column 1.*second time"),
        ("network: [a\n", "line 2.*while parsing"),
        (b"network: \xff\n", "line 1.*not UTF-8"),
        ("- network\n", "list stands where keys"),
    ],
)
def test_broken_yaml_is_one_fault(text, why):
    """A file that is no mapping in YAML is one fault with its line."""
    ((key, said, mend),) = faults_of(text)
    assert key == ""
    assert re.search(why, said)
    assert mend


def test_an_empty_file_and_empty_sections():
    """Nothing in a file asks for what is required; a section without keys has its defaults."""
    assert [key for key, _, _ in faults_of("")][:1] == ["network"]
    text = yamltext.dump(document_of(values_of())) + "failover:\nscan: null\n"
    assert config.parse(text, Path("/srv/vm/vmctl.yaml")).failover.after == 180.0


def test_the_template_has_every_key_and_loads(tmp_path):
    """A new file holds each key of the table, each with its comment, and reads as the same config."""
    text = config.template(values_of("dual-active"))
    assert parsed(values_of("dual-active")) == config.parse(text, Path("/srv/vm/vmctl.yaml"))
    lines = text.splitlines()
    for key in config_keys.KEYS:
        name = key.path.rpartition(".")[2]
        at = next(at for at, line in enumerate(lines) if re.match(rf" *(# )?{name}:( |$)", line))
        assert lines[at - 1].lstrip().startswith("# ")
    assert max(map(len, lines)) <= 120


def test_the_template_refuses_what_it_cannot_write():
    """A required key without a value and a path that is no key are mistakes of the caller."""
    with pytest.raises(ValueError, match="network has no value"):
        config.template(values_of(network=None))
    with pytest.raises(ValueError, match=r"there is no key failover\.aftr"):
        config.template(values_of(failover__aftr="3s"))


def test_the_table_and_the_config_agree():
    """Each row is a field of the section that it is in, each field has its row, and each default is well."""
    rows = {}
    for key in config_keys.KEYS:
        section, _, name = key.path.rpartition(".")
        rows.setdefault(section.removesuffix(".*"), set()).add(name)
        if key.default not in (config_keys.REQUIRED, None):
            key.kind.read(key.default)
    types = {"servers": config.Server, "services": config.Service, "webhooks": config.Webhook}
    types |= {name: getattr(config, name.title()) for name in rows if name and name not in types}
    for name, kind in types.items():
        assert rows[name] == set(kind._fields) - {"name"}


def test_the_docs_hold_the_table():
    """docs/config.md has the generated table as it is now."""
    assert config.reference() in DOCS.read_text(encoding="utf-8")


def test_finding_the_file(tmp_path, monkeypatch):
    """The named file comes first, then the variable, then the nearest one above; a directory stands for its file."""
    for name in ("a", "b", "c/d"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a", "b", "c"):
        (tmp_path / name / "vmctl.yaml").write_text("")
    a, b, c = (tmp_path / name / "vmctl.yaml" for name in "abc")
    monkeypatch.chdir(tmp_path / "c" / "d")
    environ = {"VMCTL_CONFIG": str(tmp_path / "b")}
    assert a == config.find(a, environ)
    assert a == config.find(a.parent, environ)
    assert b == config.find(None, environ)
    assert c == config.find(None, {})
    assert c == config.find(None, {"VMCTL_CONFIG": ""})


def test_finding_nothing(tmp_path, monkeypatch):
    """What is not there is ConfigMissing, which says where it was looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigMissing, match="directory above it"):
        config.find(None, {})
    with pytest.raises(ConfigMissing, match="which VMCTL_CONFIG names"):
        config.find(None, {"VMCTL_CONFIG": "nowhere.yaml"})
    with pytest.raises(ConfigMissing, match="there is no nowhere"):
        config.find(Path("nowhere/vmctl.yaml"), {})
    with pytest.raises(ConfigMissing, match="there is no"):
        config.load(tmp_path / "vmctl.yaml")
    with pytest.raises(ConfigMissing, match="cannot read"):
        config.load(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigMissing, match="working directory is gone"):
        config.find(None, {})
    os.chdir(tmp_path)


def test_an_oversized_file(tmp_path):
    """A file beyond the bound is a fault, read no further than that."""
    path = tmp_path / "vmctl.yaml"
    path.write_bytes(b"#" * (yamltext.SIZE + 10))
    with pytest.raises(ConfigFaults) as caught:
        config.load(path)
    assert "at most 1048576" in caught.value.faults[0]["why"]


@pytest.mark.parametrize("text", ["127.0.0.1:25", "[::1]:2525", "vm-1.example.com:1", "under_score:65535"])
def test_an_address_reads_as_it_shows(text):
    """The text of an address is its own form in the file."""
    assert text == str(config.parse_address(text))


def test_an_ipv6_address_has_one_form():
    """Two ways to write one IPv6 address are equal."""
    assert config.parse_address("[::1]:25") == config.parse_address("[0:0:0:0:0:0:0:1]:25")
