"""Messages on the wire: what is passed on untouched, what the broker adds, and what it refuses to store."""

import datetime as dt
import uuid
from typing import Any

import pytest

from esazure.testing.servicebus.amqp_types import DecodeError, Symbol, Timestamp, Ubyte, Uint, Ulong
from esazure.testing.servicebus.encoding import encode
from esazure.testing.servicebus.messages import StoredMessage
from esazure.testing.servicebus.sections import BATCH_FORMAT, Sections, parse_message, parse_transfer
from esazure.testing.servicebus.sections import render as render_for
from esazure.testing.servicebus.snapshots import MessageSnapshot


def section(code: int, value: Any) -> bytes:
    return b"\x00\x53" + bytes((code,)) + encode(value)


def stored(raw: bytes, **fields: Any) -> StoredMessage:
    return StoredMessage(parse_message(raw), 7, 5, 1000.0, **fields)


def render(message: StoredMessage, *, peeked: bool = False) -> bytes:
    return render_for(message, lambda seconds: seconds, peeked=peeked)


BODY = section(0x75, b"body")


def test_the_bare_message_is_passed_on_untouched() -> None:
    properties = section(0x73, [uuid.UUID(int=1), None, "to", "subject", None, b"correlation"])
    application = section(0x74, {"small": Ubyte(1), "wide": Ulong(1)})
    footer = section(0x78, {})
    raw = section(0x70, [True, Ubyte(4)]) + section(0x71, {}) + properties + application + BODY + footer
    rendered = render(stored(raw))
    assert rendered.endswith(properties + application + BODY + footer)


def test_the_broker_writes_the_count_and_its_annotations() -> None:
    raw = section(0x70, [True, Ubyte(4), Uint(60_000), None, Uint(9)]) + section(0x72, {Symbol("x-mine"): 1}) + BODY
    token = uuid.uuid4()
    rendered = Sections(render(stored(raw, lock_token=token, locked_until=1030.0, dead_letter_source="q")))
    assert rendered.header == [b"\x41", encode(Ubyte(4)), encode(Uint(60_000)), encode(None), encode(Uint(0))]
    assert {str(key): value for key, value in rendered.annotations.items()} == {
        "x-mine": encode(1),
        "x-opt-sequence-number": encode(7),
        "x-opt-enqueue-sequence-number": encode(5),
        "x-opt-enqueued-time": encode(Timestamp(1_000_000)),
        "x-opt-locked-until": encode(Timestamp(1_030_000)),
        "x-opt-deadletter-source": encode("q"),
    }


@pytest.mark.parametrize(("deferred", "peeked", "shown"), [(True, False, 1), (True, True, 1), (False, True, 0)])
def test_the_state_is_shown_to_who_peeks_or_deferred(*, deferred: bool, peeked: bool, shown: int) -> None:
    annotations = Sections(render(stored(BODY, deferred=deferred), peeked=peeked)).annotations
    assert annotations[Symbol("x-opt-message-state")] == b"\x71\x00\x00\x00" + bytes((shown,))


def test_a_locked_message_carries_its_token_but_not_to_who_only_peeks() -> None:
    token = uuid.uuid4()
    annotations = section(0x71, {Symbol("x-opt-lock-token"): token})
    assert annotations in render(stored(BODY, lock_token=token))
    assert Sections(render(stored(BODY, lock_token=token), peeked=True)).delivery_annotations == {}
    assert Sections(render(stored(BODY))).delivery_annotations == {}


def test_the_delivery_annotations_of_the_sender_are_handed_on() -> None:
    raw = section(0x71, {Symbol("mine"): Ubyte(1), Symbol("x-opt-lock-token"): "false"}) + BODY
    token = uuid.uuid4()
    received = Sections(render(stored(raw, lock_token=token))).delivery_annotations
    assert received == {Symbol("mine"): encode(Ubyte(1)), Symbol("x-opt-lock-token"): encode(token)}


def test_a_message_without_an_id_gets_one_of_its_own_and_keeps_its_other_properties() -> None:
    raw = section(0x73, [None, b"user", "to", "subject", None, Ulong(5)]) + BODY
    first, second = parse_message(raw), parse_message(raw)
    assert first.message_id
    assert first.message_id != second.message_id
    rendered = Sections(render(StoredMessage(first, 7, 5, 1000.0)))
    assert rendered.raw_properties == encode([first.message_id, b"user", "to", "subject", None, Ulong(5)])
    assert parse_message(BODY).message_id


def test_a_receiver_is_told_times_by_its_own_clock() -> None:
    rendered = Sections(render_for(stored(BODY, lock_token=uuid.uuid4(), locked_until=1030.0), lambda at: at - 60))
    assert rendered.annotations[Symbol("x-opt-enqueued-time")] == encode(Timestamp(940_000))
    assert rendered.annotations[Symbol("x-opt-locked-until")] == encode(Timestamp(970_000))


def test_added_properties_leave_the_others_their_width() -> None:
    raw = section(0x74, {"small": Ubyte(1), "changed": 1}) + BODY
    rendered = Sections(render(stored(raw, added_properties={"changed": 2, "DeadLetterReason": "bad"})))
    assert rendered.application_properties == {"small": 1, "changed": 2, "DeadLetterReason": "bad"}
    assert encode(Ubyte(1)) in rendered.raw_application_properties


def test_times_are_read() -> None:
    when = 1_700_000_000_000
    raw = section(0x70, [None, None, Uint(1500)]) + section(
        0x72, {Symbol("x-opt-scheduled-enqueue-time"): Timestamp(when)}
    )
    message = parse_message(raw)
    assert message.time_to_live == 1.5
    assert message.scheduled_at == when / 1000


def test_a_batch_is_its_messages() -> None:
    batch = section(0x75, section(0x73, ["1"]) + BODY) + section(0x75, section(0x73, ["2"]) + BODY)
    assert [message.message_id for message in parse_transfer(batch, BATCH_FORMAT)] == ["1", "2"]
    assert len(parse_transfer(batch, 0)) == 1


@pytest.mark.parametrize(
    "raw",
    [
        section(0x73, [[1]]),
        section(0x73, [{}]),
        section(0x73, ["id", None, 5]),
        section(0x73, [None] * 10 + [5]),
        section(0x73, {}),
        section(0x70, [None, None, "soon"]),
        section(0x70, [None, None, Ulong(2**40)]),
        section(0x70, {}),
        section(0x72, {"text": 1}),
        section(0x72, [1]),
        section(0x72, {Symbol("x-opt-scheduled-enqueue-time"): "soon"}),
        section(0x74, {1: 1}),
        section(0x74, [1]),
        section(0x75, "text"),
        section(0x79, None),
        b"\x00\xa1\x01x\x40",
        b"\x40",
        BODY[:-1],
    ],
)
def test_what_could_not_be_delivered_is_not_taken(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_message(raw)


def test_a_batch_has_a_limit() -> None:
    with pytest.raises(DecodeError, match="4500"):
        parse_transfer(section(0x75, b"") * 4501, BATCH_FORMAT)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (BODY, b"body"),
        (BODY + BODY, b"bodybody"),
        (section(0x77, b"bytes"), b"bytes"),
        (section(0x77, "é"), "é".encode()),
        (section(0x77, 5), encode(5)),
        (section(0x76, [1]), encode([1])),
        (b"", b""),
    ],
)
def test_a_snapshot_shows_the_body_but_its_repr_does_not(body: bytes, content: bytes) -> None:
    raw = section(0x73, ["id", None, None, "subject"]) + section(0x74, {"secret": "s3cret"}) + body
    snapshot = MessageSnapshot.of(stored(raw, expires_at=1060.0), lambda seconds: seconds)
    assert snapshot.body == content
    assert (snapshot.message_id, snapshot.subject, snapshot.sequence_number) == ("id", "subject", 7)
    assert snapshot.application_properties == {"secret": "s3cret"}
    assert snapshot.expires_at == dt.datetime(1970, 1, 1, 0, 17, 40, tzinfo=dt.UTC)
    for shown in (repr(snapshot), repr(stored(raw)), repr(stored(raw).message)):
        assert "s3cret" not in shown
        assert "body" not in shown
