"""Do the conformance suites bite? Plants bugs into copies of the in-memory backend and expects each to be found.

    python tools/plant_bugs.py            all bugs; the exit code is how many nobody found
    python tools/plant_bugs.py command    those with this word in their name

A bug is a textual patch of one module. A patch that no longer applies, or that breaks more than promises, is an error
of this tool: bring it up to date.
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
# Fast to start: no plugin but the one that is needed, and no explanations of failures, which are wanted here. Generated
# payloads are left out: every bug is to be found by a promise that somebody wrote down.
_SETTINGS = """[pytest]
addopts = -x -q --tb=line --assert=plain --import-mode=importlib -p no:cacheprovider -p pytest_asyncio.plugin
    -k "not test_any_json_comes_back"
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""
_NOT_THE_INSTALLED_ONE = """
from pathlib import Path
import esazure
assert Path(esazure.__file__).is_relative_to(Path(__file__).parent), esazure.__file__
"""


class Bug(NamedTuple):
    """One careless line: in `module`, `right` became `wrong`."""

    name: str
    module: str
    right: str
    wrong: str


BUGS = (
    Bug("no version check", "memory", "if not follows:", "if False:"),
    Bug(
        "the commit before is not looked at",
        "memory",
        ' and record.after in ("", stream[-1]',
        ' or record.after in ("", stream[-1]',
    ),
    Bug(
        "own write seen as a conflict",
        "memory",
        "and any(stored.commit_id == record.commit_id for",
        "and any(False for",
    ),
    Bug(
        "a rival's commit taken for the own",
        "memory",
        "and any(stored.commit_id == record.commit_id for",
        "and any(True for",
    ),
    Bug("only the last commit recognised as own", "memory", "for stored in stream):", "for stored in stream[-1:]):"),
    Bug("no outbox row", "memory", "if outbox:", "if False:"),
    Bug("outbox row unasked", "memory", "if outbox:", "if True:"),
    Bug(
        "a conflict takes the winner's outbox row",
        "memory",
        "            raise ConcurrencyError(",
        "            self._outbox[record.stream].pop(record.first_version, None)\n            raise ConcurrencyError(",
    ),
    Bug(
        "a repeated insert brings a published commit back into the outbox",
        "memory",
        "            return\n        if record.command_id",
        "            self._outbox.setdefault(record.stream, {})[record.first_version] = self.clock()\n"
        "            return\n        if record.command_id",
    ),
    Bug("mark_published removes all", "memory", ".pop(record.first_version, None) is not None", ".clear() is None"),
    Bug("mark_published removes nothing", "memory", ".pop(record.first_version, None)", ".get(record.first_version)"),
    Bug("unpublished looks past the version", "memory", " if first < before_version", ""),
    Bug("unpublished ignores the limit", "memory", "before_version)[:limit]", "before_version)"),
    Bug("a lease is taken whatever was seen", "memory", "if self._leases.get(partition) != seen:", "if False:"),
    Bug(
        "unpublished newest first",
        "memory",
        "return [commits[first] for first in due]",
        "return [commits[first] for first in due[::-1]]",
    ),
    Bug(
        "versions sorted as text",
        "memory",
        "            for record in self._streams.get(stream, [])",
        "            for record in sorted(self._streams.get(stream, []), key=lambda record: str(record.first_version))",
    ),
    Bug("to_version off by one", "memory", "record.first_version <= to_version", "record.first_version < to_version"),
    Bug(
        "the store's own list handed out",
        "memory",
        '        """See `ICommitStore.read`."""\n',
        '        """See `ICommitStore.read`."""\n'
        "        if from_version == 1 and to_version is None:\n"
        "            return self._streams.setdefault(stream, [])\n",
    ),
    Bug("command ids are not looked at", "memory", "if record.command_id is not None:", "if False:"),
    Bug(
        "a handled command is a conflict",
        "memory",
        "        if record.command_id is not None:",
        "        if (stream[-1].last_version if stream else 0) != record.expected_version:\n"
        "            raise ConcurrencyError(record.stream, expected=record.expected_version)\n"
        "        if record.command_id is not None:",
    ),
    Bug(
        "a command of another stream is taken for this one's",
        "memory",
        "in self._streams.get(stream, []):\n            if record.command_id",
        "in [each for stream in self._streams.values() for each in stream]:\n            if record.command_id",
    ),
    Bug(
        "a command that is found is not where its commit begins",
        "memory",
        "CommandRecord(record.first_v",
        "CommandRecord(record.last_v",
    ),
    Bug(
        "forbidding a command lets one on its way in between",
        "memory",
        "        if forbid and found is None:\n",
        "        if forbid and found is None:\n            await __import__('asyncio').sleep(0)\n",
    ),
    Bug(
        "a forbidden command is forgotten",
        "memory",
        "found = self._commands[stream, command_id] = CommandRecord()",
        "found = CommandRecord()",
    ),
    Bug(
        "a command is forbidden in all streams",
        "memory",
        "return self._commands.get((stream, command_id))",
        "return next((known for (_, other), known in self._commands.items() if other == command_id), None)",
    ),
    Bug(
        "a command that stored nothing is forgotten",
        "memory",
        "found = self._commands[stream, command_id] = CommandRecord(answered_at=",
        "found = CommandRecord(answered_at=",
    ),
    Bug(
        "a later note of a command replaces the first answer",
        "memory",
        "        if found is None:\n            found = self._commands[stream, command_id] = CommandRecord(a",
        "        if True:\n            found = self._commands[stream, command_id] = CommandRecord(a",
    ),
    Bug(
        "what is forbidden is answered",
        "memory",
        "        if found.is_forbidden:\n            raise",
        "        if False:\n            raise",
    ),
    Bug("what a command asked for is forgotten", "memory", ", request=record.request)", ")"),
    Bug(
        "from_version off by one", "memory", "record.last_version >= from_version", "record.last_version > from_version"
    ),
    Bug(
        "from_version cuts the commit it is in the middle of",
        "memory",
        "record.last_version >= from_version",
        "record.first_version >= from_version",
    ),
    Bug(
        "inline views are written in spite of a conflict",
        "memory",
        "            raise ConcurrencyError(",
        "            self._views.update({(record.stream, view.name): replace(view, tag='x') for view in views})\n"
        "            raise ConcurrencyError(",
    ),
    Bug("inline views are not written", "memory", "        for view in views:", "        for view in ():"),
    Bug(
        "a repeated insert brings an old inline view back",
        "memory",
        "            return\n        if record.command_id",
        "            self._views.update({(record.stream, view.name): replace(view, tag='x') for view in views})\n"
        "            return\n        if record.command_id",
    ),
    Bug(
        "an inline view keeps its tag",
        "memory",
        "self._views[record.stream, view.name] = replace(view, tag=uuid4().hex)",
        "self._views[record.stream, view.name] = replace(view, tag='tag')",
    ),
    Bug(
        "an inline view is replaced whatever was seen",
        "memory",
        "if (there.tag if there else None) != (seen.tag if seen else None):",
        "if False:",
    ),
    Bug("a scan begins anew", "memory", " and (after is None or stream > after)", ""),
    Bug("a scan begins with the last stream", "memory", "stream > after)", "stream >= after)"),
    Bug(
        "a scan finds types that begin alike",
        "memory",
        '{encode_part(aggregate_type)}."',
        '{encode_part(aggregate_type)}"',
    ),
    Bug("a scan has no order", "memory", "for stream in sorted(self._streams):", "for stream in list(self._streams):"),
    Bug("a scan finds streams without commits", "memory", " and self._streams[stream]:", ":"),
    Bug(
        "a document is written over whatever was seen",
        "memory",
        "if (documents[key].tag if key in documents else None) != seen:",
        "if key in documents and seen is None:",
    ),
    Bug(
        "a document that is not there is replaced",
        "memory",
        "if key in documents else None) !=",
        "if key in documents else seen) !=",
    ),
    Bug(
        "a document's tag is its text",
        "memory",
        "Document(key, text, uuid4().hex)",
        "Document(key, text, f'tag{text}')",
    ),
    Bug(
        "a document is deleted whatever was seen",
        "memory",
        "document is None or document.tag != seen:",
        "document is None:",
    ),
    Bug("a page begins a document late", "memory", "encode_token(found[-1].key)", "encode_token(keys[limit])"),
    Bug("a page begins a document early", "memory", "key > behind)", "key >= behind)"),
    Bug("a page is too long", "memory", "for key in keys[:limit]]", "for key in keys[: limit + 1]]"),
    Bug("clearing documents forgets to", "memory", "self._documents.pop(collection, None)", "pass"),
    Bug(
        "clearing documents takes collections that begin alike",
        "memory",
        "        self._documents.pop(collection, None)",
        "        for name in [each for each in self._documents if each.startswith(collection)]:\n"
        "            del self._documents[name]",
    ),
    Bug("the length of a page is not looked at", "documents", "if not 1 <= limit <= MAX_PAGE:", "if False:"),
    Bug("the size of a document is not looked at", "documents", "if len(data) > MAX_COMMIT_BYTES or (", "if ("),
    Bug(
        "the size of a document on the wire is not looked at",
        "documents",
        "and len(zlib.compress(data)) > MAX_DENSE_COMMIT_BYTES",
        "and False",
    ),
    Bug("the length of a document's key is not looked at", "documents", ")) > MAX_STREAM_NAME:", ")) < 0:"),
    Bug("any name is a collection", "documents", "if _COLLECTION.fullmatch(name) is None:", "if False:"),
    Bug(
        "a collection's name is looked at only at its beginning",
        "documents",
        "_COLLECTION.fullmatch(",
        "_COLLECTION.match(",
    ),
    Bug(
        "anything is a token",
        "documents",
        "if position is None or encode_token(position) != token:",
        "if position is None:",
    ),
    Bug("a store_id for every call", "memory", "return self._store_id", "return uuid4()"),
    Bug("messages newest first", "memory", "self.messages.extend(messages)", "self.messages[:0] = messages"),
    Bug("ids that differ in case share a stream", "keys", "    return name\n", "    return name.lower()\n"),
    Bug(
        "ids are normalised",
        "keys",
        "data = text.encode()",
        "data = __import__('unicodedata').normalize('NFC', text).encode()",
    ),
    Bug(
        "ids are cut", "keys", "    if len(name) > MAX_STREAM_NAME:", "    name = name[:MAX_STREAM_NAME]\n    if False:"
    ),
    Bug(
        "pending cleared by a conflict",
        "repository",
        "state.in_doubt = None  # the slot is taken",
        "state.pending.clear()  # the slot is taken",
    ),
    Bug(
        "an unknown id is an empty aggregate",
        "repository",
        "        if not aggregate.version:\n",
        "        if False:\n",
    ),
    Bug(
        "the last event of a commit is dropped",
        "repository",
        "pending = tuple(state.pending)",
        "pending = tuple(state.pending[: max(1, len(state.pending) - 1)])",
    ),
    Bug(
        "one live aggregate for all",
        "repository",
        "            state_of(aggregate).read_only = True\n        return aggregate",
        "            state_of(aggregate).read_only = True\n            return aggregate\n"
        "        return self.__dict__.setdefault(stream, aggregate)",
    ),
    Bug("metadata lost", "repository", "metadata=metadata_json,", 'metadata="{}",'),
    Bug(
        "occurred_at is the time of reading",
        "repository",
        "            decode_time(record),\n",
        "            self._clock(),\n",
    ),
    Bug("copies of the past can be persisted", "repository", "if state.read_only:", "if False:"),
    Bug("size counted in characters", "limits", "size, most = len(data), ", "size, most = len(record.payload), "),
    Bug(
        "size on the wire not looked at",
        "limits",
        "if MAX_DENSE_COMMIT_BYTES < size <= MAX_COMMIT_BYTES:",
        "if False:",
    ),
    Bug("gaps loaded over", "lifecycle", "record.first_version != version + 1 or ", ""),
    Bug("commits of the wrong length accepted", "lifecycle", " or record.count != len(lines)", ""),
    Bug(
        "a version is rounded up to its commit",
        "lifecycle",
        "            if to is not None:\n",
        "            if False:\n",
    ),
    Bug("damage is quoted", "codec", "but cannot be read: {why}", "but cannot be read: {json}"),
    Bug(
        "private events published",
        "integration",
        "        if public is None:",
        "        public = public or whole(envelope, payload)\n        if public is None:",
    ),
    Bug("a lane for every version", "integration", "session_id=lane,", "session_id=str(envelope.version),"),
    Bug("message ids ignore the store", "integration", "uuid5(commit.store_id,", "uuid5(type(commit.store_id)(int=0),"),
    Bug("metadata not announced", "integration", "                    **commit.metadata,\n", ""),
    Bug("oversize not refused", "integration", "        if size > max_message_bytes:", "        if False:"),
)


def outcome(bug: Bug | None, suite: Path) -> str:
    """Run the suite against the bug: `killed`, `SURVIVED`, or what went wrong. Without a bug `passed` is expected."""
    with TemporaryDirectory() as directory:
        copy = Path(directory)
        ignored = shutil.ignore_patterns("__pycache__", "servicebus", "tables")
        shutil.copytree(_ROOT / "src" / "esazure", copy / "esazure", ignore=ignored)
        if bug is not None:
            module = copy / "esazure" / f"{bug.module}.py"
            text = module.read_text(encoding="utf-8")
            if text.count(bug.right) != 1:
                return f"ERROR: the patch matches {text.count(bug.right)} places in {bug.module}.py, not one"
            module.write_text(text.replace(bug.right, bug.wrong), encoding="utf-8")
        (copy / "pytest.ini").write_text(_SETTINGS, encoding="utf-8")
        (copy / "conftest.py").write_text(_NOT_THE_INSTALLED_ONE, encoding="utf-8")
        shutil.copy(suite, copy / "test_suite.py")
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "test_suite.py"],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode not in (0, 1) or " error" in run.stdout.splitlines()[-1]:
        return f"ERROR: pytest ended with {run.returncode}:\n{run.stdout[-2_000:]}{run.stderr[-2_000:]}"
    if bug is None:
        return "passed" if run.returncode == 0 else f"ERROR: without a bug the suite fails:\n{run.stdout[-2_000:]}"
    return "killed" if run.returncode == 1 else "SURVIVED"


def main(
    bugs: Sequence[Bug] = BUGS,
    suite: Path = _ROOT / "tests" / "conformance" / "test_memory.py",
    *,
    words: Sequence[str] = (),
) -> int:
    """Plant each bug and print what came of it; the number of bugs that were not found is the exit code."""
    planted: list[Bug | None] = [None, *(bug for bug in bugs if all(word in bug.name for word in words))]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
        outcomes = list(workers.map(lambda bug: outcome(bug, suite), planted))
    for bug, what in zip(planted, outcomes, strict=True):
        print(f"{what:9} {'(no bug planted)' if bug is None else f'{bug.module}: {bug.name}'}")
    return sum(what not in ("killed", "passed") for what in outcomes)


if __name__ == "__main__":
    sys.exit(main(words=sys.argv[1:]))
