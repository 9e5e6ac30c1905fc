"""Changing keys in a vmctl.yaml that people write: those keys, and nothing else in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl import config, durable, network, yamltext
from vmctl.config_edit import change, edited, turn
from vmctl.errors import ConfigFaults, ConfigMissing, NotEdited, StoreBusy

PLAIN = """# mine
network: net   # the name
servers:
   # the first
   primary:   # in the cellar
      address: "a:1"
      mail: a@b.example

      # key: none yet
      # public_key:
   secondary:
      address: "b:1"
      mail: b@b.example
services:
   voicemail:
      home: primary
      primary: {address: no, servers: no}
"""


def test_a_key_takes_the_place_of_its_comment():
    """A commented key becomes a line, a line another value or a comment again, a new key goes to the top; no other line changes."""
    made = edited(
        PLAIN, {"primary": {"public_key": "x", "address": "c:2", "store": "p"}, "secondary": {"address": None}}
    )
    assert made == (
        PLAIN.replace("      # public_key:\n", "      public_key: x\n")
        .replace('      address: "a:1"\n', "      store: p\n      address: c:2\n")
        .replace('      address: "b:1"\n', "      # address:\n")
    )


@pytest.mark.parametrize(
    "text",
    [
        "servers: {primary: {address: a}}\n",
        "network: net\n",
        "servers:\n  primary: {address: a}\n",
        "servers:\n  primary:\n    address: >-\n      a\n      b\n",
        "servers:\n- primary\n",
        "servers:\n  primary:\n    address: a\n    address: b\n",
        "no yaml: [\n",
        "",
    ],
)
def test_another_form_is_left_alone(text):
    """Flow style, folded text, no servers, no YAML: nothing is changed, whatever it looks like."""
    assert edited(text, {"primary": {"address": "c"}}) is None


@given(
    st.dictionaries(
        st.sampled_from(["store", "key", "public_key", "seal_key", "former_key", "former_until"]),
        st.none() | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=40), max_size=6,
    )
)  # fmt: skip
def test_what_comes_out_is_what_was_asked_for(changes):
    """Of any values: the document is the former one with these changes, and comments stay; or nothing is changed."""
    made = edited(PLAIN, {"primary": changes})
    wanted = yamltext.load(PLAIN, "x")
    for key, value in changes.items():
        wanted["servers"]["primary"].pop(key, None)
        if value is not None:
            wanted["servers"]["primary"][key] = value
    if made is not None:
        assert wanted == yamltext.load(made, "x")
        assert "# in the cellar" in made


def test_the_file_of_init(tmp_path):
    """Each key of a new vmctl.yaml can be taken out and put in again; then it is the same file, byte for byte."""
    path = network.make(tmp_path / "net").path
    before = path.read_text()
    server = config.load(path).servers["secondary"]
    change(path, {"secondary": {"store": None, "key": None, "public_key": None, "seal_key": None}})
    assert not config.load(path).servers["secondary"].here
    change(
        path,
        {"secondary": {"store": "secondary", "key": "keys/secondary.pem", "public_key": server.public_key, "seal_key": server.seal_key}},
    )  # fmt: skip
    assert before == path.read_text()


def test_what_the_file_is_stays_so(tmp_path):
    """A link leads where it led, line ends are what they were, and of two that change it at once one waits."""
    path = network.make(tmp_path / "net").path
    real = tmp_path / "real.yaml"
    path.rename(real)
    real.write_bytes(real.read_bytes().replace(b"\n", b"\r\n"))
    path.symlink_to(real)
    change(path, {"primary": {"former_key": None, "maildir": "box"}})
    assert path.is_symlink()
    raw = real.read_bytes()
    assert b"    maildir: box\r\n" in raw
    assert raw.count(b"\n") == raw.count(b"\r\n")
    with turn(path), pytest.raises(StoreBusy):
        durable.take_lock(path.with_name(".vmctl.yaml.lock"), timeout=0.01, what="it")


def test_nothing_half_done(tmp_path):
    """What would make a bad config, or cannot be changed, leaves the file as it was, and says what to write by hand."""
    path = network.make(tmp_path / "net").path
    path.chmod(0o640)
    before = path.read_text()
    with pytest.raises(ConfigFaults, match="1 fault"):
        change(path, {"primary": {"public_key": "ed25519:nonsense"}})
    assert before == path.read_text()
    change(path, {"primary": {"former_key": None}})
    assert 0o640 == path.stat().st_mode & 0o777
    path.write_text("servers: {}\n")
    with pytest.raises(NotEdited) as caught:
        change(path, {"primary": {"public_key": "x", "store": None}})
    assert "    public_key: x\n    (no store)" in caught.value.hint
    with pytest.raises(ConfigMissing):
        change(tmp_path / "none.yaml", {"primary": {}})
