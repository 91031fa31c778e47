"""Whatever comes in: set aside with a reason, nothing imported, nobody harmed, nothing repeated of what it says."""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.consumer.support import Account, Opened, Recorder, changed, deliver, deposits, outcome
from tests.support.secrets import MARKER

from esazure import AggregateRoot, DomainEvent
from esazure.consumer import Consumer
from esazure.errors import EsAzureError, PoisonMessageError
from esazure.integration import IntegrationMessage, messages_of, whole
from esazure.memory import InMemoryStore

DEEP = '{"owner":' * 50_000 + "1" + "}" * 50_000
WIDE = '{"owner": "' + MARKER * 200_000 + '"}'

BODIES = {
    "nothing": "",
    "no JSON": f"{{{MARKER}",
    "a bare word": "hello",
    "an array": "[1, 2]",
    "null": "null",
    "a field too many": f'{{"owner": "x", "{MARKER}": 1}}',
    "deep": DEEP,
    "deep lists": "[" * 100_000,
    "a lone surrogate": '{"owner": "\ud800"}',
    "an escaped lone surrogate": '{"owner": "\\ud800"}',
    "a byte order mark": '\ufeff{"owner": "x"}',
    "the wrong type": '{"owner": 1}',
    "a class": '{"owner": {"__class__": "os.system"}}',
    "two values": '{"owner": "x"}{"owner": "y"}',
    "zeros": "\x00" * 100,
}
AMOUNTS = {
    "NaN": "NaN",
    "infinity": "Infinity",
    "1e999": "1e999",
    "5,000 digits": "9" * 5_000,
    "4,301 digits": "9" * 4_301,
    "a fraction": "1.5",
    "a quoted list": '"[]"',
    "an object": '{"__reduce__": ["os.system", ["true"]]}',
}
TYPES = {
    "unknown": "Closed",
    "a function": "os:system",
    "a builtin": "builtins.eval",
    "a private one": "__import__",
    "a module": "antigravity",
    ".NET": "Bank.Domain.Opened",
    "the class's own name": "tests.consumer.support.Opened",
}
NAMES = {
    "AssemblyQualifiedName": "Bank.Opened, Bank, Version=1.0.0.0, Culture=neutral, PublicKeyToken=null",
    "empty": "",
    "blank": " ",
    "a line break": "Opened\n",
    "a null": "Opened\x00",
    "long": "O" * 100_000,
    "a path": "../../etc/passwd",
    "lone surrogate": "\ud800",
}
MISSING: tuple[Any, ...] = (None,)
NOT_TEXT: tuple[Any, ...] = (1, 1.5, True, b"Opened", [], {}, object())


@pytest.fixture
def setting() -> tuple[InMemoryStore, Consumer, Recorder]:
    store, recorder = InMemoryStore(), Recorder()
    return store, Consumer("worker", [recorder], positions=store, source=None), recorder


async def check(
    setting: tuple[InMemoryStore, Consumer, Recorder], hostile: IntegrationMessage, genuine: IntegrationMessage
) -> PoisonMessageError:
    """Refused at the first attempt, quickly and without a trace; the lane goes on with the genuine one."""
    store, consumer, recorder = setting
    lane = consumer.lane()
    modules, began = set(sys.modules), time.perf_counter()
    with pytest.raises(PoisonMessageError) as caught:
        await lane.handle(hostile)
    assert time.perf_counter() - began < 2.0
    assert set(sys.modules) == modules
    assert recorder.calls == 0
    assert await store.read_document("positions-worker", "Account.ada") is None
    assert await consumer.parked() == []
    assert MARKER not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert len(str(caught.value)) < 1_000
    await lane.handle(genuine)
    assert recorder.seen == [("ada", 1)]
    return caught.value


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_body_its_class_refuses(setting: tuple[InMemoryStore, Consumer, Recorder], body: str) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    assert (await check(setting, changed(genuine, body=body), genuine)).reason == "Malformed"


@pytest.mark.parametrize("amount", AMOUNTS.values(), ids=AMOUNTS.keys())
async def test_a_number_that_is_none(setting: tuple[InMemoryStore, Consumer, Recorder], amount: str) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    hostile = changed(genuine, type="Deposited", body=f'{{"amount": {amount}}}')
    assert (await check(setting, hostile, genuine)).reason == "Malformed"


@pytest.mark.parametrize("name", TYPES.values(), ids=TYPES.keys())
async def test_a_type_the_aggregate_does_not_declare(
    setting: tuple[InMemoryStore, Consumer, Recorder], name: str
) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    poison = await check(setting, changed(genuine, type=name), genuine)
    assert poison.reason in ("UnknownEventType", "Malformed")
    assert poison.reason == "UnknownEventType" or "type" in poison.description


@pytest.mark.parametrize("name", [*NAMES.values(), *NOT_TEXT, *MISSING])
@pytest.mark.parametrize("property_", ["type", "aggregate_type"])
async def test_a_name_that_is_none(
    setting: tuple[InMemoryStore, Consumer, Recorder], property_: str, name: object
) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    assert (await check(setting, changed(genuine, **{property_: name}), genuine)).reason == "Malformed"


@pytest.mark.parametrize(
    "version",
    [
        *("", "0", "-1", "+1", "01", "1.0", "1e3", "one", " 1", "1\n", "\u0661", "1_0", "0x1"),
        *("9999999999", "9" * 5_000),
        *NOT_TEXT,
        *MISSING,
    ],
)
async def test_a_version_that_is_none(setting: tuple[InMemoryStore, Consumer, Recorder], version: object) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    poison = await check(setting, changed(genuine, version=version), genuine)
    assert (poison.reason, "5000" in poison.description) == ("Malformed", False)


@pytest.mark.parametrize("aggregate", ["a" * 481, "/" * 200, "\ud800", *NOT_TEXT, *MISSING])
async def test_an_id_that_cannot_be_a_key(setting: tuple[InMemoryStore, Consumer, Recorder], aggregate: object) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    assert (await check(setting, changed(genuine, aggregate=aggregate), genuine)).reason == "Malformed"


@pytest.mark.parametrize(
    "time",
    ["", "yesterday", "2027-01-01", "2027-01-01T00:00:00", "2027-13-01T00:00:00Z", "1" * 10_000, *NOT_TEXT, *MISSING],
)
async def test_a_time_that_is_none(setting: tuple[InMemoryStore, Consumer, Recorder], time: object) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    assert (await check(setting, changed(genuine, occurred_at=time), genuine)).reason == "Malformed"


@pytest.mark.parametrize("value", [*NOT_TEXT, "\ud800"])
@pytest.mark.parametrize("name", ["correlation_id", "Diagnostic-Id"])
async def test_metadata_that_is_no_text(
    setting: tuple[InMemoryStore, Consumer, Recorder], name: str, value: object
) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    assert (await check(setting, changed(genuine, **{name: value}), genuine)).reason == "Malformed"


@pytest.mark.parametrize("name", [1, b"user", None, "\ud800"])
async def test_a_property_whose_name_is_no_text(
    setting: tuple[InMemoryStore, Consumer, Recorder], name: object
) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    hostile = changed(genuine)
    cast("dict[object, str]", hostile.properties)[name] = "x"
    assert (await check(setting, hostile, genuine)).reason == "Malformed"


@pytest.mark.parametrize("properties", [None, {}, [], "aggregate_type", 1, {"aggregate_type": "Account"}])
async def test_no_properties_at_all(setting: tuple[InMemoryStore, Consumer, Recorder], properties: Any) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    hostile = changed(genuine)
    object.__setattr__(hostile, "properties", properties)
    assert (await check(setting, hostile, genuine)).reason == "Malformed"


@pytest.mark.parametrize("body", [b'{"owner": "x"}', 1, ["x"], {"owner": "x"}])
async def test_a_body_that_is_no_text(setting: tuple[InMemoryStore, Consumer, Recorder], body: object) -> None:
    (genuine,) = await deposits(setting[0], "ada", 0)
    assert (await check(setting, changed(genuine, body=body), genuine)).reason == "Malformed"


@pytest.mark.parametrize(
    "id", ["", "1", "6F9619FF-8B86-D011-B42D-00CF4FC964FF", "{6f9619ff-8b86-d011-b42d-00cf4fc964ff}"]
)
async def test_an_id_that_is_no_uuid_where_one_has_to_be(id: str) -> None:
    class Numbered(AggregateRoot[Opened]):
        def when(self, event: Opened) -> None: ...

    store, recorder = InMemoryStore(), Recorder()
    recorder._interests = {Numbered: frozenset({Opened})}
    (message,) = await deposits(store, "ada", 0)
    lane = Consumer("worker", [recorder], positions=store, source=None).lane()
    assert await outcome(lane, changed(message, aggregate_type="Numbered", aggregate=id)) == "Malformed"


async def test_what_is_refused_leaves_no_memory_behind(setting: tuple[InMemoryStore, Consumer, Recorder]) -> None:
    store, consumer, _ = setting
    (genuine,) = await deposits(store, "ada", 0)
    lane = consumer.lane()
    hostile = [changed(genuine, body=body) for body in (DEEP, WIDE, "{")]
    for message in hostile:
        await outcome(lane, message)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(30):
            for message in hostile:
                await outcome(lane, message)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000


async def test_an_event_whose_validator_raises_anything_is_refused() -> None:
    class Angry(DomainEvent):
        x: int

        def model_post_init(self, context: object) -> None:
            if self.x == 1:
                raise RecursionError(MARKER)
            if self.x == 2:
                raise LookupError(MARKER)

    class Bear(AggregateRoot[Angry, str]):
        def when(self, event: Angry) -> None: ...

    store, recorder = InMemoryStore(), Recorder()
    recorder._interests = {Bear: frozenset({Angry})}
    bear = Bear("b")
    bear.record(Angry(x=0))
    commit = await store.events(Bear).append(bear)
    assert commit is not None
    (message,) = messages_of(commit, whole, None)
    lane = Consumer("worker", [recorder], positions=store, source=None).lane()
    for x in (1, 2):
        assert await outcome(lane, changed(message, body=f'{{"x": {x}}}')) == "Malformed"


async def test_each_is_set_aside_once_and_a_stream_goes_on_around_it() -> None:
    store, recorder = InMemoryStore(), Recorder()
    consumer = Consumer("worker", [recorder], positions=store, source=store)
    messages = await deposits(store, "ada", 3)
    hostile = [changed(messages[2], type=name) for name in TYPES.values()]
    hostile += [changed(messages[2], version="x"), changed(messages[2], version="77")]
    became = await deliver(consumer, [*messages[:2], *hostile, *messages[2:]])
    assert became[:2] == became[-2:] == ["done", "done"]
    assert "done" not in became[2:-2]
    assert recorder.versions("ada") == [1, 2, 3, 4]


def values() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.text(max_size=40),
        st.sampled_from([*TYPES.values(), "Opened", "Account", "1", "2"]),
        st.integers(),
        st.none(),
    )


@given(
    properties=st.dictionaries(
        st.one_of(
            st.sampled_from(["aggregate", "aggregate_type", "type", "version", "occurred_at", "user"]),
            st.text(max_size=9),
        ),
        values(),
    ),
    body=st.one_of(st.text(), st.sampled_from(['{"owner":"x"}', '{"amount":1}', "{}"]), st.binary(), st.none()),
)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_message_gets_anything_out_of_a_consumer_but_done_or_poison(properties: dict[str, Any], body: Any) -> None:
    recorder = Recorder()
    lane = Consumer("worker", [recorder], positions=None, source=None).lane()
    told = {"aggregate": "ada", "aggregate_type": "Account", "type": "Opened", "version": "1", **properties}
    told = {"occurred_at": "2027-01-01T00:00:00+00:00", **told}
    message = IntegrationMessage("", "", "", "", cast("dict[str, str]", told), cast("str", body))
    for _ in step(lane.handle(message)):
        pass
    assert all(type(envelope.event).__name__ in Account.event_types for envelope in recorder.envelopes)


def step(handling: Any) -> Iterator[None]:
    """Without an event loop: nothing here waits for anything but a turn."""
    try:
        while True:
            handling.send(None)
            yield
    except StopIteration:
        return
    except EsAzureError as error:
        assert isinstance(error, PoisonMessageError)  # noqa: PT017 - one kind of error may come, the others may not
