"""The NBD conversation without a socket: however the bytes arrive, whatever a client says."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers import nbd_protocol as nbd
from keyvisor_guest.containers.nbd_protocol import Command, Export, NbdError, Option, Reply
from keyvisor_guest.containers.nbd_session import End, Look, Read, Say, Session

EXPORT = Export(1 << 20, "image")


def option(number, data=b"", length=None):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data) if length is None else length) + data


def go(name=b""):
    return option(Option.GO, struct.pack(">I", len(name)) + name + bytes(2))


def request(command, offset=0, length=0, cookie=1, flags=0, magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)


FLAGS = struct.pack(">I", 3)


def reading(*, structured=False, allocation=False):
    session = Session(EXPORT)
    session.receive(FLAGS)
    if structured:
        session.receive(option(Option.STRUCTURED_REPLY))
    if allocation:
        query = nbd.ALLOCATION.encode()
        session.receive(option(Option.SET_META_CONTEXT, struct.pack(">III", 0, 1, len(query)) + query))
    session.receive(go())
    assert session.reads
    return session


def kinds(events):
    """The kinds of the option replies among what is said."""
    return [struct.unpack_from(">QII", one.data)[2] for one in events if isinstance(one, Say)]


CONVERSATION = (
    FLAGS
    + option(Option.LIST)
    + option(77, b"whatever")
    + option(Option.STRUCTURED_REPLY)
    + go(b"image")
    + request(Command.READ, 4096, 8192)
    + request(Command.WRITE, 0, 5)
    + b"hello"
    + request(Command.READ, 0, 1, cookie=2)
    + request(Command.DISC)
)


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=20))
def test_it_does_not_matter_how_the_bytes_arrive(cuts):
    whole = Session(EXPORT).receive(CONVERSATION)
    session, parts, edges = Session(EXPORT), [], [0, *sorted(cuts), len(CONVERSATION)]
    for start, end in pairwise(edges):
        parts += session.receive(CONVERSATION[start:end])
    assert parts == whole
    assert [type(one) for one in whole[-4:]] == [Read, Say, Read, End]
    assert (whole[-4].request.offset, whole[-4].request.length, whole[-2].request.cookie) == (4096, 8192, 2)


@given(st.binary(max_size=300))
def test_no_bytes_make_it_read_outside_or_raise(data):
    for session, opening in ((Session(EXPORT), FLAGS), (reading(), b""), (Session(EXPORT), b"")):
        for event in session.receive(opening + data):
            if isinstance(event, Read | Look):
                assert event.request.length > 0
                assert event.request.offset + event.request.length <= EXPORT.size


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([Command.READ, Command.BLOCK_STATUS]),
)
def test_what_is_outside_is_refused(offset, length, command):
    (event,) = reading(structured=True, allocation=True).receive(request(command, offset, length))
    inside = length > 0 and offset + length <= EXPORT.size
    assert isinstance(event, Read | Look) == inside
    if not inside:
        assert struct.unpack_from(">I", event.data, 20)[0] == NbdError.INVAL


def test_more_than_a_request_may_ask_for_is_refused():
    session = Session(Export(1 << 40))
    session.receive(FLAGS + go())
    assert isinstance(session.receive(request(Command.READ, 0, nbd.MAX_READ))[0], Read)
    assert isinstance(session.receive(request(Command.READ, 0, nbd.MAX_READ + 1))[0], Say)


@pytest.mark.parametrize("command", [Command.WRITE, Command.TRIM, Command.WRITE_ZEROES])
@pytest.mark.parametrize("structured", [False, True])
def test_what_writes_is_refused_and_its_data_is_passed_over(command, structured):
    session = reading(structured=structured)
    payload = b"IHAVEOPT" * 512 if command is Command.WRITE else b""
    events = session.receive(request(command, 0, 4096) + payload + request(Command.READ, 0, 1))
    said, read = events
    assert struct.unpack_from(">I", said.data, 20 if structured else 4)[0] == NbdError.PERM
    assert isinstance(read, Read)


def test_a_write_longer_than_any_request_ends_it():
    assert reading().receive(request(Command.WRITE, 0, nbd.MAX_READ + 1)) == [End()]


def test_an_answer_has_as_many_bytes_as_were_asked_for():
    session = reading()
    (event,) = session.receive(request(Command.READ, 0, 4))
    assert session.answered(event.request, b"1234").endswith(b"1234")
    for wrong in (b"", b"123", b"12345"):
        with pytest.raises(ValueError, match="as many bytes"):
            session.answered(event.request, wrong)


def test_an_error_carries_no_bytes():
    for structured in (False, True):
        session = reading(structured=structured)
        (event,) = session.receive(request(Command.READ, 0, 4096))
        assert len(session.failed(event.request, NbdError.IO)) == (26 if structured else 16)


def test_the_options():
    session = Session(EXPORT)
    session.receive(FLAGS)
    assert kinds(session.receive(option(Option.LIST))) == [Reply.SERVER, Reply.ACK]
    assert kinds(session.receive(option(Option.LIST, b"x"))) == [Reply.INVALID]
    assert kinds(session.receive(option(5))) == [Reply.UNSUPPORTED]  # STARTTLS
    assert kinds(session.receive(go(b"other"))) == [Reply.UNKNOWN]
    assert kinds(session.receive(option(Option.GO, b"\0"))) == [Reply.INVALID]
    query = struct.pack(">III", 0, 1, 5) + b"base:"
    assert kinds(session.receive(option(Option.SET_META_CONTEXT, query))) == [Reply.INVALID]
    assert kinds(session.receive(option(Option.STRUCTURED_REPLY))) == [Reply.ACK]
    assert kinds(session.receive(option(Option.LIST_META_CONTEXT, query))) == [Reply.META_CONTEXT, Reply.ACK]
    assert kinds(session.receive(option(Option.SET_META_CONTEXT, query))) == [Reply.ACK]
    assert kinds(session.receive(option(Option.SET_META_CONTEXT, query[:-1]))) == [Reply.INVALID]
    info = option(Option.INFO, struct.pack(">IHH", 0, 1, 3))
    assert kinds(session.receive(info)) == [Reply.INFO] * 3 + [Reply.ACK]
    assert not session.reads
    assert session.receive(option(Option.ABORT))[-1] == End()
    assert session.receive(go()) == []


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 4),  # a flag that there is not
        FLAGS + b"IHAVEOPX" + bytes(8),
        FLAGS + option(Option.GO, length=nbd.MAX_OPTION + 1),
        FLAGS + option(Option.EXPORT_NAME, b"other"),
        FLAGS + go() + request(Command.READ, 0, 1, magic=1),
    ],
)
def test_what_is_not_of_the_protocol_ends_it(data):
    assert Session(EXPORT).receive(data)[-1] == End()


def test_zeroes_behind_the_export_name_only_for_who_wants_them():
    for flags, length in ((3, 10), (1, 134)):
        session = Session(EXPORT)
        (said,) = session.receive(struct.pack(">I", flags) + option(Option.EXPORT_NAME, b"image"))
        assert len(said.data) == length
        assert struct.unpack_from(">QH", said.data) == (EXPORT.size, 1 | 2 | 1 << 8)
