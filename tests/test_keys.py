"""Keys: made once, kept private, and honest about whose signature it is; and whose store a directory is."""

import base64
import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from vmctl import identity, keys, sealing
from vmctl.errors import AlreadyExists, KeyExposed, KeyMissing, StoreDamaged, StoreForeign, StoreMissing, StoreNewer

SEAL = keys.SEAL_PREFIX + base64.b64encode(bytes(1216)).decode()


@pytest.fixture
def path(tmp_path):
    """A place for a key, in a directory that does not exist yet."""
    return tmp_path / "keys" / "primary.pem"


def test_a_signature_is_its_owners(path):
    """What one key signed its public half verifies, and no other key or content does."""
    public = keys.generate(path, "primary")
    key = keys.load_private(path)
    signature = key.sign(b"heartbeat")
    assert public == key.public
    assert keys.verify(public.identity, signature, b"heartbeat")
    assert not keys.verify(public.identity, signature, b"heartbeaT")
    assert not keys.verify(public.identity, signature[:-1], b"heartbeat")
    other = keys.generate(path.with_name("other.pem"), "secondary")
    assert not keys.verify(other.identity, signature, b"heartbeat")


def test_what_is_sealed_only_its_owner_opens(path):
    """What was sealed for one key that key opens, and no other; an altered byte, a cut and an empty text open nowhere."""
    public = keys.generate(path, "primary")
    keys.generate(path.with_name("other.pem"), "secondary")
    key, other = keys.load_private(path), keys.load_private(path.with_name("other.pem"))
    sealed = keys.seal(b"a message", public.seal)
    assert sealed != keys.seal(b"a message", public.seal)
    assert len(sealed) == len(b"a message") + sealing.OVERHEAD
    assert key.open(sealed) == b"a message"
    assert other.open(sealed) is None
    for at in (0, 1100, len(sealed) - 1):
        assert key.open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]) is None
    assert key.open(sealed[:-1]) is None
    assert key.open(b"") is None


def test_what_was_sealed_once_is_opened_for_ever():
    """The bytes of the sealing key and of a sealed mail are those of the page on sync mails, whatever library made them."""
    known = json.loads((Path(__file__).parent / "known" / "sealed.json").read_text())
    raw = {name: base64.b64decode(known[name]) for name in ("mlkem_seed", "x25519_private", "public", "sealed")}
    mlkem = MLKEM768PrivateKey.from_seed_bytes(raw["mlkem_seed"])
    x25519 = X25519PrivateKey.from_private_bytes(raw["x25519_private"])
    assert raw["public"] == mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    assert known["info"].encode() == sealing.INFO
    assert known["content"].encode() == sealing.opened(raw["sealed"], mlkem, x25519)


def test_a_rotation_keeps_the_former_keys_until_they_are_retired(path):
    """After it both sign and both open; after the end only the new ones do, and the file holds no others."""
    before = keys.generate(path, "primary")
    sealed = keys.seal(b"under way", before.seal)
    key = keys.rotate(path, "primary")
    assert (key.former, key.public) == (before, keys.load_private(path).public)
    assert key.public != before
    both = key.signatures(b"heartbeat", former=True)
    assert [key.public.identity, before.identity] == [one.public for one in both]
    assert all(keys.verify(one.public, one.signature, b"heartbeat") for one in both)
    assert [key.public.identity] == [one.public for one in key.signatures(b"heartbeat", former=False)]
    assert key.open(sealed) == b"under way"
    assert before == keys.retire(path, "primary")
    left = keys.load_private(path)
    assert (left.former, left.public) == (None, key.public)
    assert left.open(sealed) is None
    assert keys.retire(path, "primary") is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_private_key_stays_private(path):
    """The file is for its owner only, and what the key shows of itself is the public half."""
    public = keys.generate(path, "primary")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert repr(keys.load_private(path)) == f"PrivateKey({public.identity})"


def test_a_key_is_never_replaced(path):
    """Making a key where one is leaves the old one as it was."""
    keys.generate(path, "primary")
    before = path.read_bytes()
    with pytest.raises(AlreadyExists, match="already"):
        keys.generate(path, "primary")
    assert before == path.read_bytes()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o666])
def test_an_exposed_key_is_refused(path, mode):
    """A key that others have any access to is not used, and the hint is the command that mends it."""
    keys.generate(path, "primary")
    path.chmod(mode)
    with pytest.raises(KeyExposed, match="others can use") as caught:
        keys.load_private(path)
    assert f"chmod 600 {path}" in caught.value.hint


def test_no_key(path):
    """An absent key, a directory, a pipe and a file that is no Ed25519 key are KeyMissing with the reason."""
    with pytest.raises(KeyMissing, match="cannot read the key"):
        keys.load_private(path)
    path.mkdir(parents=True)
    with pytest.raises(KeyMissing, match="is no file"):
        keys.load_private(path)
    os.mkfifo(path / "pipe", 0o600)
    with pytest.raises(KeyMissing, match="is no file"):
        keys.load_private(path / "pipe")
    for text in ("hello", "", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        (path / "text").write_text(text)
        (path / "text").chmod(0o600)
        with pytest.raises(KeyMissing, match=r"does not hold the keys of a server|cannot be read"):
            keys.load_private(path / "text")


def test_a_key_file_must_be_whole(path):
    """A file that lacks one of its keys, or has one of them twice, is KeyMissing and says what belongs into it."""
    keys.generate(path, "primary")
    blocks = [
        block[0] for block in re.finditer(r"-----BEGIN [^-]*-----.*?-----END [^-]*-----\n", path.read_text(), re.DOTALL)
    ]
    keyed = [block for block in blocks if "PRIVATE KEY" in block]
    assert (len(blocks), len(keyed)) == (5, 4)
    for block in keyed:
        path.write_text("".join(one for one in blocks if one != block))
        with pytest.raises(KeyMissing, match="does not hold the keys of a server") as caught:
            keys.load_private(path)
        assert "an ML-KEM-768 key" in caught.value.why
    path.write_text("".join([*blocks, keyed[-1]]))
    with pytest.raises(KeyMissing, match="does not hold the keys of a server"):
        keys.load_private(path)


@given(raw=st.binary(min_size=32, max_size=32))
def test_a_public_key_has_one_form(raw):
    """Text and bytes of a public key stand for each other."""
    assert raw == keys.parse_public(keys.public_text(raw))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        base64.b64encode(bytes(32)).decode(),
        "ed25519:" + base64.b64encode(bytes(31)).decode(),
        "ed25519:" + base64.b64encode(bytes(32)).decode().rstrip("="),
        "ed25519:" + base64.b64encode(bytes(32)).decode() + "\n",
        "ed25519:" + "A" * 42 + "B=",  # the same bytes, written another way
        "ed25519:ü",
    ],
)
def test_what_is_no_public_key(text):
    """Anything but the one form is a ValueError, for reading, for verifying and for its fingerprint."""
    for use in (
        keys.parse_public,
        lambda text: keys.fingerprint(keys.Public(text, SEAL)),
        lambda text: keys.verify(text, b"", b""),
    ):
        with pytest.raises(ValueError, match="is not 'ed25519:'"):
            use(text)


def test_a_fingerprint_can_be_read_out():
    """It is the start of the SHA-256 of the keys' bytes, both of them, in groups of four."""
    digits = hashlib.sha256(bytes(32 + 1216)).hexdigest()
    shown = keys.fingerprint(keys.Public(keys.public_text(bytes(32)), SEAL))
    assert shown.replace("-", "") == digits[:32]
    assert [4] * 8 == [len(part) for part in shown.split("-")]


def test_a_store_knows_whose_it_is(tmp_path):
    """What create wrote read gives back, and no directory above or beside is touched."""
    made = identity.create(tmp_path / "a" / "store", "net", "primary")
    assert made == identity.read(tmp_path / "a" / "store", "net", "primary")
    assert made == identity.Identity(1, "net", "primary", made.incarnation, "native")
    assert (tmp_path / "a" / "store" / ".vmctl").stat().st_mode & 0o777 == 0o700
    assert made.incarnation.startswith("primary-")


def test_a_store_is_made_once(tmp_path):
    """A store cannot be made over a store: its memory would be lost."""
    made = identity.create(tmp_path, "net", "primary")
    with pytest.raises(AlreadyExists, match="is a store already"):
        identity.create(tmp_path, "net", "primary")
    assert made == identity.read(tmp_path, "net", "primary")


def test_an_unmounted_store_is_missing(tmp_path):
    """A directory without identity, and none at all, are missing, told apart, and nothing is made there."""
    with pytest.raises(StoreMissing, match=r"is there, but \.vmctl/identity\.json is not"):
        identity.read(tmp_path, "net", "primary")
    with pytest.raises(StoreMissing, match="is not there"):
        identity.read(tmp_path / "store", "net", "primary")
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_store_names_both(tmp_path):
    """The store of another server or network is refused, and the error says whose it is and whose it should be."""
    identity.create(tmp_path, "net", "primary")
    for network, server in (("net", "secondary"), ("other", "primary")):
        with pytest.raises(StoreForeign, match="server primary of network net") as caught:
            identity.read(tmp_path, network, server)
        assert f"server {server} of network {network}" in caught.value.why


def test_a_newer_store_is_left_alone(tmp_path):
    """A version that this vmctl does not know is StoreNewer, whatever else the file says."""
    identity.create(tmp_path, "net", "primary")
    (tmp_path / ".vmctl" / "identity.json").write_text('{"v": 2, "net": "of another shape"}')
    with pytest.raises(StoreNewer, match="version 2"):
        identity.read(tmp_path, "net", "primary")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"v": true}', '{"v": 1}', "[" * 60_000, "\ud800".encode("utf-8", "surrogatepass")]
)
def test_a_damaged_identity_is_no_other_server(tmp_path, text):
    """An identity that cannot be read is StoreDamaged with a way out, not a foreign store and not an empty one."""
    identity.create(tmp_path, "net", "primary")
    path = tmp_path / ".vmctl" / "identity.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StoreDamaged, match="is damaged") as caught:
        identity.read(tmp_path, "net", "primary")
    assert "backup" in caught.value.hint


def test_a_name_in_an_identity_is_checked(tmp_path):
    """An incarnation that could become a path is refused."""
    made = identity.create(tmp_path, "net", "primary")
    path = tmp_path / ".vmctl" / "identity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "incarnation": "../" + made.incarnation}))
    with pytest.raises(StoreDamaged, match="is damaged"):
        identity.read(tmp_path, "net", "primary")


def test_a_new_life(tmp_path):
    """Renewing changes the incarnation and nothing else, and only in the right store."""
    made = identity.create(tmp_path, "net", "secondary", "asterisk")
    renewed = identity.renew(tmp_path, "net", "secondary")
    assert renewed == identity.read(tmp_path, "net", "secondary")
    assert made.incarnation != renewed.incarnation
    assert renewed.format == "asterisk"
    with pytest.raises(StoreForeign):
        identity.renew(tmp_path, "net", "primary")
