"""What several test files share: a pair of servers with a wire between them, and recordings."""

import itertools
import signal

import pytest
from hypothesis import settings

settings.register_profile("vmctl", deadline=None)  # a busy machine is no fault
settings.load_profile("vmctl")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job ignores it, and so would all it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("wire", "contract", "matrix", "mta")  # before it is imported
from contract import FORMATS, Pair  # noqa: E402
from wire import Wire, tone  # noqa: E402

from vmctl import durable  # noqa: E402


@pytest.fixture
def no_fsync(monkeypatch):
    """No test here cuts the power: the disk need not be waited for."""
    monkeypatch.setattr(durable, "_fsync", lambda _fd: None)


@pytest.fixture
def wire(tmp_path, no_fsync):
    """Two servers of a new network, and the mails between them."""
    made = Wire(tmp_path / "net")
    yield made
    made.close()


@pytest.fixture
def narrow(tmp_path, no_fsync):
    """Two servers whose mails are as small as the config allows."""
    made = Wire(tmp_path / "net", {"mail.max": "64kB", "limits.document": "4kB"})
    yield made
    made.close()


@pytest.fixture
def recording(tmp_path):
    """Makes a recording that is like no other: `recording()`, `recording(frames=100_000)`."""
    count = itertools.count()
    return lambda **how: tone(tmp_path / f"recording-{next(count)}.wav", **how)


@pytest.fixture(params=FORMATS, scope="session")
def layout(request):
    """The hand of a format."""
    return FORMATS[request.param]


@pytest.fixture
def pair(tmp_path, no_fsync, layout):
    """Two servers with mailbox 2001, in step."""
    made = Pair(tmp_path / "net", layout)
    made.desk().create_mailbox("2001", {"name": "Ada"})
    made.in_step()
    yield made
    made.close()


@pytest.fixture
def sound(recording):
    """Makes the bytes of a recording that is like no other."""
    return lambda **how: recording(**how).read_bytes()


@pytest.fixture
def office():
    """Real mail servers, which end with the test."""
    from mta.through import an_office

    with an_office() as made:
        yield made


@pytest.fixture
def post(office):
    """Two hosts with a Postfix each, which do not run yet, and a hop each way between these."""
    from mta.hop import hop
    from mta.through import Post

    with hop() as there, hop() as back:
        yield Post(office, there, back)
