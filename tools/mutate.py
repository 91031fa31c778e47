"""Does anything notice when a guard against loss, doubling or disorder is gone? Removes each one and expects a failure.

    python tools/mutate.py            all guards; the exit code is how many nobody missed
    python tools/mutate.py relay      those with this word in their name

A mutant is a textual patch of a copy of the sources, and names the few tests that are to notice it. A patch that no
longer applies is an error: bring it up to date. `plant_bugs.py` does the same for the promises of single backends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 300.0
"""Seconds after which a run of tests is given up, loudly; it takes a few."""
_SETTINGS = """[pytest]
addopts = -x -q --tb=line --assert=plain --import-mode=importlib -p no:cacheprovider
    -p pytest_asyncio.plugin
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
pythonpath = .
markers =
    azurite: not here
    amqp: not here
    timeout: not here
"""
_NOT_THE_INSTALLED_ONE = """
from pathlib import Path
import esazure
assert Path(esazure.__file__).is_relative_to(Path(__file__).parent), esazure.__file__
"""

_APPEND = ("tests/tables/test_append.py",)
_CRASHES = ("tests/faults/test_crashes.py::test_a_sweep_of_the_relay",)
_SERVICE = (
    "tests/unit/test_service.py::test_publishing_stops_at_the_first_failure_and_skips_nothing",
    "tests/unit/test_service.py::test_a_commit_whose_answer_was_lost_is_published_by_the_next_writer_in_order",
    "tests/unit/test_service.py::test_cancelling_a_dispatch_leaves_the_outbox_row",
)
_RELAY = (
    "tests/relay/test_publishing.py::TestFailures::test_a_stream_stops_at_its_first_failure_and_the_others_go_on",
)
_IN_DOUBT = ("tests/unit/test_repository.py::test_a_copy_in_doubt_records_nothing_and_persists_the_same_commit",)
_MEMORY = ("tests/conformance/test_memory.py",)
_HARNESS = ("tests/faults/test_proxy.py::test_nothing_is_lost_doubled_or_out_of_order",)
_PLAIN = ("tests/unit/test_plain.py",)
_CODEC = ("tests/unit/test_codec.py",)
_FINGERPRINT = ("tests/unit/test_fingerprint.py",)
_VIEWS = ("tests/unit/test_inline_views.py",)
_SNAPSHOTS = ("tests/unit/test_snapshots.py", "tests/conformance/test_memory.py")
_COMMANDS = ("tests/unit/test_idempotency.py", "tests/conformance/test_memory.py")
_CLAIMS = ("tests/unit/test_unique_values.py",)
_BREAKER = ("tests/servicebus/test_breaker.py",)
_TURNS = ("tests/unit/test_turns.py",)
_PIPELINE = tuple(f"tests/tables/test_pipeline.py::{name}" for name in ("TestProxies", "TestNoToken", "TestWhatIsTold"))
_LEASES = ("tests/faults/test_contention.py::test_of_relays_that_want_one_lease_one_gets_it",)


class Mutant(NamedTuple):
    """A guard that is gone: in `module`, each of `patches` was applied, and `tests` are to notice."""

    name: str
    module: str
    patches: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "each dispatch waits for the same silence",
        "servicebus/breaker.py",
        (("is_probe = self._open_until is not None\n", "is_probe = self._open_until = None\n"),),
        _BREAKER,
    ),
    Mutant(
        "who cancels early never finds out that a broker is silent",
        "servicebus/breaker.py",
        (("except (CancelledError, Exception) as", "except Exception as"),),
        _BREAKER,
    ),
    Mutant(
        "a dispatch shows what aiohttp or a credential said",
        "servicebus/producer.py",
        (("if not may_quote_secrets(error):", "if True:"),),
        _BREAKER,
    ),
    Mutant(
        "updates of one aggregate take no turns",
        "service.py",
        (("                await queue.acquire()\n", "                raise TimeoutError\n"),),
        _TURNS,
    ),
    Mutant(
        "an update waits for the turn it is in",
        "service.py",
        (("if any(queue in turn for turn in _turns.get()):", "if False:"),),
        _TURNS,
    ),
    Mutant(
        "a task that outlives a turn goes on as if it were in it",
        "service.py",
        (("            turn.clear()\n", ""),),
        _TURNS,
    ),
    Mutant(
        "opening takes a deadline for each of its requests",
        "tables/store.py",
        (("async with asyncio.timeout(self._deadline):  # for all of its requests", "if True:"),),
        ("tests/tables/test_rest.py::test_opening_takes_one_deadline_and_not_one_for_each_request",),
    ),
    Mutant(
        "a read waits as long as Retry-After says",
        "tables/rest.py",
        (
            (
                "async with asyncio.timeout(self._patience):\n                reply = await self._pipeline.get(",
                "if True:\n                reply = await self._pipeline.get(",
            ),
        ),
        ("tests/tables/test_rest.py::test_no_call_waits_for_as_long_as_the_service_asks",),
    ),
    Mutant(
        "an error quotes the password of a proxy",
        "tables/pipeline.py",
        (('raise kind(f"{type(cause).__name__}{_number(cause)}")', "raise kind(str(cause))"),),
        _PIPELINE,
    ),
    Mutant(
        "a SAS is in every span and log",
        "tables/pipeline.py",
        (("        finally:\n            http.url = url\n", "        finally:\n            pass\n"),),
        _PIPELINE,
    ),
    Mutant(
        "a challenge asks for a second token",
        "tables/pipeline.py",
        (("async def on_challenge(", "async def on_another_challenge("),),
        _PIPELINE,
    ),
    Mutant(
        "commits that somebody waits for leave no outbox row",
        "repository.py",
        (("        if name in not_there:\n", "        if False:\n"),),
        ("tests/unit/test_service.py::test_commits_that_somebody_waits_for_in_vain_are_refused",),
    ),
    Mutant(
        "the relay reads all that nobody publishes",
        "relay/relay.py",
        (("if route is None or route.failures >= TRIES:", "if False:"),),
        ("tests/relay/test_pages.py",),
    ),
    Mutant(
        "the relay begins each turn at the beginning",
        "relay/relay.py",
        (("self._unfinished.pop(partition, None)", "None"),),
        ("tests/relay/test_pages.py",),
    ),
    Mutant(
        "a command that had nothing to store is not remembered",
        "repository.py",
        (
            (
                "return None if command_id is None else await self._remember(aggregate, command_id, digest)",
                "return None",
            ),
        ),
        _COMMANDS,
    ),
    Mutant(
        "a command that had nothing to store is answered as of now",
        "repository.py",
        (("return None if found.answered_at == state.stored_version else await", "return None if True else await"),),
        _COMMANDS,
    ),
    Mutant(
        "a command id may be used for another request",
        "repository.py",
        (("if digest is not None and handled.request not in (None, digest):", "if False:"),),
        _COMMANDS,
    ),
    Mutant(
        "a command without a request is taken for another one",
        "repository.py",
        (("handled.request not in (None, digest):", "handled.request != digest:"),),
        _COMMANDS,
    ),
    Mutant(
        "a command that is impossible by now is not looked up",
        "service.py",
        (("            if command_id is None:\n                raise\n", "            raise\n"),),
        _COMMANDS,
    ),
    Mutant(
        "an old copy answers a command",
        "repository.py",
        (("        if not state.pending and command_id is None:\n", "        if not state.pending:\n"),),
        _COMMANDS,
    ),
    Mutant(
        "a command is noted in a table that is not the one that was opened",
        "tables/commands.py",
        (('[("create", row), ("touch", presence(layout, partition))]', '[("create", row)]'),),
        ("tests/tables/test_commands.py",),
    ),
    Mutant(
        "of two commands that differ in a secret each has the hash of the other",
        "canonical.py",
        (("case Secret() | SecretStr() | SecretBytes():", "case SecretStr() | SecretBytes():"),),
        ("tests/unit/test_command_digest.py",),
    ),
    Mutant(
        "of a command the default of a field counts",
        "canonical.py",
        ((" and not _is_default(values[name], known)", ""),),
        ("tests/unit/test_command_digest.py",),
    ),
    Mutant(
        "a claim's key can be guessed without the id of the store",
        "unique.py",
        (("blake2b(text, key=self._store.store_id.bytes, digest_size=32)", "blake2b(text, digest_size=32)"),),
        _CLAIMS,
    ),
    Mutant(
        "a claim that is released keeps its key",
        "unique.py",
        (("seen=found[1], erase=True)", "seen=found[1])"),),
        _CLAIMS,
    ),
    Mutant(
        "a claim that is abandoned keeps its key",
        "unique.py",
        (("seen=reservation.tag, erase=True)", "seen=reservation.tag)"),),
        _CLAIMS,
    ),
    Mutant(
        "a claim of a repeat that was answered keeps its key",
        "unique.py",
        (("key, seen=tag, erase=True):", "key, seen=tag):"),),
        _CLAIMS,
    ),
    Mutant(
        "a claim is made for a request that cannot be hashed",
        "unique.py",
        (("        digest_of(command_id, request)\n", ""),),
        _CLAIMS,
    ),
    Mutant(
        "a stream is loaded for a command whose request cannot be hashed",
        "service.py",
        (("        digest_of(command_id, request)\n", ""),),
        _CLAIMS,
    ),
    Mutant(
        "a claim in another store is as good",
        "unique.py",
        (("if service.store_id != self._store.store_id:", "if False:"),),
        _CLAIMS,
    ),
    Mutant(
        "a claim was not made though the command was answered, and is called taken",
        "unique.py",
        (("if await service.find_command(aggregate.id, command_id, request=request) is None:", "if True:"),),
        _CLAIMS,
    ),
    Mutant(
        "a file of another layout is opened",
        "sqlite/schema.py",
        (('if meta.get("layout") != _LAYOUT:', "if False:"),),
        ("tests/sqlite/test_store.py",),
    ),
    Mutant(
        "a missing topic is called a problem of the credential",
        "servicebus/translation.py",
        (("if status == _NOT_FOUND:", "if status is None:"),),
        ("tests/servicebus/test_translation.py",),
    ),
    Mutant(
        "the double counts a session that is closed",
        "testing/servicebus/sessions.py",
        (("self._free(session_id, session, failed=False)", "self._free(session_id, session, failed=True)"),),
        ("tests/servicebus_double/test_model.py",),
    ),
    Mutant(
        "the commit id is not compared, taken is a conflict",
        "tables/append.py",
        ((" == record.commit_id:", " == 'nobody':"),),
        _APPEND,
    ),
    Mutant(
        "the commit id is not compared, taken is taken by us",
        "tables/append.py",
        ((" == record.commit_id:", " is not None:"),),
        _APPEND,
    ),
    Mutant(
        "a commit does not touch the one before it",
        "tables/append.py",
        (
            (
                "return await gateway.submit(operations)\n    except",
                "return await gateway.submit(operations[:-1])\n    except",
            ),
        ),
        ("tests/tables/test_append.py", "tests/conformance/test_tables.py"),
    ),
    Mutant(
        "what a commit follows may be anything",
        "tables/append.py",
        ((' and record.after in ("", tag, commit_id):', ":"),),
        _APPEND,
    ),
    Mutant(
        "a shard is marked without a look at the layout row",
        "tables/layout.py",
        (("    if found != layout:", "    if False:"),),
        _APPEND,
    ),
    Mutant(
        "a layout is written again where there are streams",
        "tables/layout.py",
        (("if found is None and not await _has_streams(gateway):", "if found is None:"),),
        _APPEND,
    ),
    Mutant(
        "an emptied table keeps its lost layout row",
        "tables/layout.py",
        (("        await _write_again(gateway, layout)\n", ""),),
        _APPEND,
    ),
    Mutant(
        "each attempt sends rows with a commit id of its own",
        "tables/append.py",
        (
            (
                "[*operations, touch])",
                "[*[(k, {**row, 'cid': f'{record.commit_id}{pause}'}) for k, row in operations], touch])",
            ),
        ),
        _HARNESS,
    ),
    Mutant(
        "no answer is a failure",
        "tables/append.py",
        (("ambiguous, last = True, unknown.__cause__ or unknown", "raise StoreError('failed') from unknown"),),
        _APPEND,
    ),
    Mutant(
        "a refusal after a lost answer is a refusal", "tables/append.py", (("if ambiguous:", "if False:"),), _APPEND
    ),
    Mutant(
        "an attempt that was not answered is forgotten",
        "repository.py",
        (("            state.in_doubt = commit\n            error.retry", "            error.retry"),),
        _IN_DOUBT,
    ),
    Mutant("gaps are loaded over", "lifecycle.py", (("record.first_version != version + 1 or ", ""),), _MEMORY),
    Mutant(
        "the outbox row is written by a second request",
        "tables/store.py",
        (
            ("await append(self._table", "rest = [operations.pop()]; await append(self._table"),
            (
                "operations, deadline=self._deadline)",
                "operations, deadline=self._deadline); await self._later(self._layout, record, partition, rest)",
            ),
            (
                "    async def read(",
                "    async def _later(self, *a): await append(self._table, *a, deadline=9)\n\n    async def read(",
            ),
        ),
        _HARNESS,
    ),
    Mutant(
        "a persist publishes newest first",
        "service.py",
        (("chain(earlier, (commit,))", "reversed([*earlier, commit])"),),
        _SERVICE,
    ),
    Mutant(
        "a persist publishes only its own commit", "service.py", (("chain(earlier, (commit,))", "(commit,)"),), _SERVICE
    ),
    Mutant(
        "a persist removes the outbox row before the broker has it",
        "service.py",
        (
            (
                "                await producer.dispatch(owed)\n",
                "                await outbox.mark_published(owed)\n                await producer.dispatch(owed)\n",
            ),
        ),
        _SERVICE,
    ),
    Mutant(
        "a persist skips what fails",
        "service.py",
        (
            (
                "                await producer.dispatch(owed)\n",
                "                with __import__('contextlib').suppress(EsAzureError): await producer.dispatch(owed)\n",
            ),
        ),
        _SERVICE,
    ),
    Mutant(
        "the relay publishes newest first",
        "relay/relay.py",
        (("for commit in commits:", "for commit in reversed(commits):"),),
        _CRASHES,
    ),
    Mutant(
        "the relay skips what fails",
        "relay/relay.py",
        (
            (
                "or not await self._publish_commit(route, commit, turn):",
                "or await self._publish_commit(route, commit, turn) is None:",
            ),
        ),
        _RELAY,
    ),
    Mutant(
        "the relay removes the outbox row before the broker has it",
        "relay/relay.py",
        (
            (
                "await route.producer.dispatch(commit)",
                "(await self._store.mark_published(commit.record), await route.producer.dispatch(commit))",
            ),
        ),
        _CRASHES,
    ),
    Mutant(
        "a lease is taken whoever has it now",
        "memory.py",
        (("if self._leases.get(partition) != seen:", "if False:"),),
        _MEMORY,
    ),
    Mutant(
        "a lease row is replaced whatever its tag is",
        "tables/outbox.py",
        (('[("replace", row, seen.tag)]', "[('upsert', row)]"),),
        _LEASES,
    ),
    Mutant("a plain event may have a value of any type", "plain.py", ((" not in self._kinds", " is None"),), _PLAIN),
    Mutant("a plain event may have other fields", "plain.py", ((" or tuple(values) != self._names:", ":"),), _PLAIN),
    Mutant("a plain event may have any number", "plain.py", (("if not is_exact(values[name]):", "if False:"),), _PLAIN),
    Mutant("a plain class may have aliases", "plain.py", (("if not field.keys() <= _FIELD:", "if False:"),), _PLAIN),
    Mutant("a plain class may have constraints", "plain.py", ((" if schema.keys() <= _PLAIN else None", ""),), _PLAIN),
    Mutant(
        "a plain class may not be frozen", "plain.py", (('.get("frozen")', '.get("frozen", True) is None'),), _PLAIN
    ),
    Mutant("a plain class may be configured anyhow", "plain.py", (("config == _CONFIG and ", ""),), _PLAIN),
    Mutant("a plain class may have an __init__", "plain.py", ((' and not schema.get("custom_init")', ""),), _PLAIN),
    Mutant(
        "a plain enumeration may have two members of one text",
        "plain.py",
        ((" and len({*values}) == len(values)", ""),),
        _PLAIN,
    ),
    Mutant("a plain enumeration may lack members", "plain.py", (("list(cls) == list(members) and ", ""),), _PLAIN),
    Mutant(
        "an event may come back different",
        "proof.py",
        (("if difference is None else", "if True else"),),
        _CODEC,
    ),
    Mutant(
        "an event may have a value of another class",
        "proof.py",
        (("if kind is not type(other):", "if False:"),),
        ("tests/unit/test_proof.py",),
    ),
    Mutant(
        "a when may change what is pending",
        "aggregate.py",
        (("event if applied is event else None", "applied"),),
        ("tests/unit/test_aggregate.py",),
    ),
    Mutant(
        "a copy made by hand shares what is pending",
        "state.py",
        (("if state.owner is not None:", "if False:"),),
        ("tests/unit/test_aggregate.py",),
    ),
    Mutant(
        "handlers share an event",
        "consumer/lane.py",
        (("[own(envelope) for envelope in events]", "events"),),
        ("tests/consumer/test_own_events.py",),
    ),
    Mutant(
        "an event may have a time in a zone",
        "proof.py",
        (("if zone != its or one.fold != other.fold:", "if False:"),),
        _CODEC,
    ),
    Mutant("a plain event may have the second of two times", "plain.py", ((" and not value.fold", ""),), _CODEC),
    Mutant(
        "a snapshot may have a time in a zone",
        "proof.py",
        (("if zone != its or one.fold != other.fold:", "if None:"),),
        _SNAPSHOTS,
    ),
    Mutant("a snapshot may record", "lifecycle.py", ((".persisting = True", ".persisting = False"),), _SNAPSHOTS),
    Mutant(
        "fields that are not declared may come back different",
        "proof.py",
        (("if value.__pydantic_extra__ else found", "if False else found"),),
        _CODEC,
    ),
    Mutant(
        "a window of a load brings any number of rows",
        "tables/loading.py",
        (("partition, low, high, _MOST)", "partition, low, high)"),),
        ("tests/tables/test_loading.py",),
    ),
    Mutant(
        "a load goes on inside a commit",
        "tables/loading.py",
        (("        first = records[-1].last_version + 1\n", "        first += width\n"),),
        ("tests/tables/test_loading.py",),
    ),
    Mutant(
        "a snapshot comes with a part of its commit",
        "tables/loading.py",
        (("number + rows_behind(row)", "number"),),
        ("tests/tables/test_loading.py",),
    ),
    Mutant(
        "a snapshot is used whatever its checksum is",
        "snapshots.py",
        ((" and digest == self._digest(stream, version, text)", ""),),
        _SNAPSHOTS,
    ),
    Mutant(
        "a snapshot of another revision is used",
        "snapshots.py",
        (("{aggregate_class.snapshot_revision} {code}", "{code}"),),
        _SNAPSHOTS,
    ),
    Mutant(
        "a snapshot is used whatever the modules that are imported do",
        "fingerprint.py",
        (("left += [each for each", "left += [each for each in () for each"),),
        _FINGERPRINT,
    ),
    Mutant(
        "a snapshot is used when only the order of parameters has changed",
        "fingerprint.py",
        (("{counts} {names} ", ""),),
        _FINGERPRINT,
    ),
    Mutant(
        "what is imported in a function does not count",
        "fingerprint.py",
        (("            yield from _imports(value, package)\n", "            pass\n"),),
        _FINGERPRINT,
    ),
    Mutant(
        "the order of a set makes another snapshot of the same code",
        "fingerprint.py",
        (("sorted(map(_told, value))", "map(_told, value)"),),
        _FINGERPRINT,
    ),
    Mutant(
        "the packages above a module do not count",
        "fingerprint.py",
        (("        yield from (name, *_packages_above(name), *(f", "        yield from (name, *(f"),),
        _FINGERPRINT,
    ),
    Mutant(
        "what is installed counts",
        "fingerprint.py",
        ((' and not _INSTALLED.intersection(Path(spec.origin or "").parts)', ""),),
        _FINGERPRINT,
    ),
    Mutant(
        "a file that was changed is taken for what runs",
        "fingerprint.py",
        (("if changed > _STARTED:", "if False:"),),
        _FINGERPRINT,
    ),
    Mutant(
        "a link to the files of another release is taken for what runs",
        "fingerprint.py",
        (("(last := left.pop(), *last.parents)", "(left.pop(),)"),),
        _FINGERPRINT,
    ),
    Mutant(
        "a link behind a link is not looked at",
        "fingerprint.py",
        (("left.append(path.parent / path.readlink())", "pass"),),
        _FINGERPRINT,
    ),
    Mutant(
        "a directory that was moved is not looked at",
        "fingerprint.py",
        (("0 if state.st_mtime_ns == state.st_ctime_ns else state.st_ctime", "0"),),
        _FINGERPRINT,
    ),
    Mutant(
        "a function that was replaced is taken for what was found",
        "fingerprint.py",
        (("module is not None and not is_generated and", "False and"),),
        _FINGERPRINT,
    ),
    Mutant(
        "a method that was replaced makes no other snapshot",
        "fingerprint.py",
        (
            (
                "for owner in owners for name, value in _attributes",
                "for owner in () for name, value in _attributes",
            ),
        ),
        _FINGERPRINT,
    ),
    Mutant(
        "what a class factory gives to a method makes no other snapshot",
        "fingerprint.py",
        (("            held.append(cell.cell_contents)", "            pass"),),
        _FINGERPRINT,
    ),
    Mutant(
        "classes without a module are taken for the same",
        "fingerprint.py",
        (('& {"builtins"}', "& set()"),),
        _FINGERPRINT,
    ),
    Mutant(
        "an inline view that is behind is shown",
        "inline.py",
        (("record.version != record.latest or ", ""),),
        _VIEWS,
    ),
    Mutant(
        "an inline view that other code made is shown",
        "inline.py",
        ((" or record.shape != self.shape", ""),),
        _VIEWS,
    ),
    Mutant(
        "where code cannot be found all are taken for the same",
        "fingerprint.py",
        (("sha256(urandom(32))", 'sha256(b"")'),),
        _FINGERPRINT,
    ),
    Mutant("a snapshot that records is restored", "snapshots.py", (("if not state.pending:", "if True:"),), _SNAPSHOTS),
    Mutant(
        "a stream is damaged when a snapshot is",
        "repository.py",
        (("                    if not is_restored:\n                        raise\n", "                    raise\n"),),
        _SNAPSHOTS,
    ),
    Mutant(
        "a snapshot is stored that gives another state",
        "snapshots.py",
        (("not is_alike(read, copy.snapshot())", "False"),),
        _SNAPSHOTS,
    ),
    Mutant(
        "a half restored aggregate is replayed on",
        "repository.py",
        (("                    if not is_restored:\n                        break\n", ""),),
        _SNAPSHOTS,
    ),
    Mutant(
        "a snapshot of a later version is loaded",
        "events.py",
        (("return found and (to_version is None or self.last_version <= to_version)", "return found"),),
        _SNAPSHOTS,
    ),
)


def outcome(mutant: Mutant | None, tests: Sequence[str]) -> str:
    """Run the tests on the mutant: `killed`, `SURVIVED`, or what went wrong. Without a mutant `passed` is expected."""
    with TemporaryDirectory() as directory:
        copy = Path(directory)
        ignored = shutil.ignore_patterns("__pycache__", "conftest.py")
        shutil.copytree(_ROOT / "src" / "esazure", copy / "esazure", ignore=ignored)
        shutil.copytree(_ROOT / "tests", copy / "tests", ignore=ignored)
        if mutant is not None:
            module = copy / "esazure" / mutant.module
            text = module.read_text(encoding="utf-8")
            for right, wrong in mutant.patches:
                if text.count(right) != 1:
                    return f"ERROR: {right!r} is {text.count(right)} times in {mutant.module}, not once"
                text = text.replace(right, wrong)
            module.write_text(text, encoding="utf-8")
        (copy / "pytest.ini").write_text(_SETTINGS, encoding="utf-8")
        (copy / "conftest.py").write_text(_NOT_THE_INSTALLED_ONE, encoding="utf-8")
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *tests],
            cwd=copy,
            env={
                **os.environ,
                "PYTHONPATH": str(copy),
                "COLUMNS": "200",
                "PYTEST_ADDOPTS": "",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    if run.returncode not in (0, 1) or " error" in run.stdout.splitlines()[-1]:
        return f"ERROR: pytest ended with {run.returncode}:\n{run.stdout[-2_000:]}{run.stderr[-2_000:]}"
    if mutant is None:
        return "passed" if run.returncode == 0 else f"ERROR: without a mutation they fail:\n{run.stdout[-3_000:]}"
    if run.returncode == 0:
        return "SURVIVED"
    why = next((line for line in run.stdout.splitlines() if line.startswith("FAILED ")), "")
    return f"killed    by {why.rpartition('::')[2]}"


def main(words: Sequence[str] = (), mutants: Sequence[Mutant] = MUTANTS) -> int:
    """Make each mutant and print what came of it; the number of those that were not noticed is returned."""
    chosen = [mutant for mutant in mutants if all(word in mutant.name for word in words)]
    if not chosen:
        print(f"no guard has {' and '.join(words)} in its name")
        return 1
    controls = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    jobs: list[tuple[Mutant | None, Sequence[str]]] = [(None, controls), *((each, each.tests) for each in chosen)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
        outcomes = list(workers.map(lambda job: outcome(*job), jobs))
    for (mutant, _), what in zip(jobs, outcomes, strict=True):
        print(f"{'(nothing changed)' if mutant is None else f'{mutant.module}: {mutant.name}'}\n    {what}")
    return sum(not what.startswith(("killed", "passed")) for what in outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
