"""Each database gives what was written to it, finds what our own index finds, and says in a line what is wrong."""

from __future__ import annotations

import http.server
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssl_toolkit.cli import dispatch
from ssl_toolkit.encoders import TEXT_FILE, Encoder, EncoderConfig, TextConfig, TextTower, save_encoder, save_text
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.search.databases import Database, StoredIndex, hidden, is_database, open_database, store
from ssl_toolkit.eval.search.databases import stored as module
from ssl_toolkit.eval.search.databases.base import About, Row, Rows
from ssl_toolkit.tasks.indexing import index as build
from ssl_toolkit.tasks.searching import search
from tests.conftest import BuildIndex, noise

CLIENTS = {"lancedb": "lancedb", "milvus": "milvus_lite", "pgvector": "psycopg", "qdrant": "qdrant_client"}
SERVER = "SSL_TOOLKIT_PGVECTOR"
NAMES = ["it's.jpg", 'quo"te.jpg', "back\\slash.jpg", "line\nbreak.jpg", "ünï.jpg", "bytes\udcff.jpg"]

# What they have open when they end, and what they use of each other, is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL with pgvector: that of the package pgserver, or the one that a variable names."""
    if SERVER in os.environ:
        yield os.environ[SERVER]
        return
    pgserver = pytest.importorskip("pgserver", reason=f"no pgvector: install pgserver, or name a server in {SERVER}")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=CLIENTS)
def word(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database is that works."""
    kind = request.param
    pytest.importorskip(CLIENTS[kind], reason=f"the extra {kind} is not installed")
    if kind == "pgvector":
        pytest.importorskip("pgvector", reason="the extra pgvector is not installed")
        return f"pgvector:{request.getfixturevalue('postgres')}#t{abs(hash(tmp_path))}"
    return f"{kind}:{tmp_path / 'database'}{'.db' if kind == 'milvus' else ''}"


def reopened(word: str, database: Any) -> StoredIndex:
    """What is in it, after whoever wrote it has gone, where two at a time may not open it."""
    if word.startswith("qdrant"):
        database.close()
        return StoredIndex(open_database(word))
    return StoredIndex(database if word.startswith("milvus") else open_database(word))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_hits_are_those_of_our_own_index(
    build_index: BuildIndex, word: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITTEN", 17)
    names = [*NAMES, *(f"{number}.jpg" for number in range(54))]
    labels = np.arange(60) % 3 - 1
    own = build_index(noise(60), names, metric=metric, labels=labels, classes=["cat", "dog's"], stamps=["1 2"] * 60)
    store(own, database := open_database(word))
    found = reopened(word, database)
    assert (len(found), found.dimension, found.metric, found.encoder_sha256) == (60, 8, metric, "e" * 64)
    hits, truth = found.search(noise(7, seed=1), 20), own.search(noise(7, seed=1), 20)
    np.testing.assert_array_equal(hits.position, truth.position)
    np.testing.assert_allclose(hits.score, truth.score, rtol=1e-4, atol=1e-5)
    assert hits.label == truth.label
    assert [path for row in hits.path for path in row if "bytes" not in path] == [
        path for row in truth.path for path in row if "bytes" not in path
    ]
    others = found.neighbours_of(np.array([3, 0]), 5)
    np.testing.assert_array_equal(others.position, own.neighbours_of(np.array([3, 0]), 5).position)
    for place, name in enumerate(NAMES):
        assert found.at(name) == (place, "1 2", own.label(place))
    assert found.at("nowhere") is None
    assert found.search(noise(1), 100).position.shape == (1, 60)
    assert len(found.search(np.zeros((0, 8), np.float32), 3).position) == 0
    assert len(found.neighbours_of(np.array([], dtype=np.int64), 3).position) == 0


def test_a_table_is_replaced_only_if_asked_and_whole(
    build_index: BuildIndex, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(word)
    store(build_index(noise(5), labels=np.arange(5)), database)
    with pytest.raises(UsageError, match=r"holds a table .* already: give --overwrite"):
        store(build_index(noise(6)), database)
    before = StoredIndex(database)
    assert before.search(noise(1), 1).label[0][0] in range(5)  # numbers stay numbers
    real = module._rows

    def torn(index: Any) -> Iterator[Any]:
        yield next(real(index))
        raise RuntimeError("the line is dead")

    monkeypatch.setattr(module, "_rows", torn)
    with pytest.raises(ToolkitError, match=r"^\w+:.*the line is dead"):
        store(build_index(noise(7)), database, overwrite=True)
    assert len(StoredIndex(database)) == 5  # nothing is lost
    monkeypatch.setattr(module, "_rows", real)
    store(build_index(noise(6, seed=3)), database, overwrite=True)
    assert len(found := reopened(word, database)) == 6
    assert found.search(noise(6, seed=3)[:1], 1).position.tolist() == [[0]]


def test_images_are_asked_with_the_encoder_of_the_index_and_no_other(
    word: str, tmp_path: Path, small_encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), tmp_path / "other.safetensors")
    options: dict[str, Any] = {"workers": 0, "progress": False}
    folder = build(tmp_path / "encoder.safetensors", "shapes:test:12", tmp_path / "index", to=word, **options)
    queries = ["shapes:train:12#3", "shapes:test:12#4", "shapes:train:12#5"]
    own = search(folder, queries, k=3, progress=False)
    found = search(word, queries, k=3, encoder=tmp_path / "encoder.safetensors", progress=False)
    for one, other in zip(own, found, strict=True):
        assert (one["query"], one["label"]) == (other["query"], other["label"])
        assert [hit["path"] for hit in one["hits"]] == [hit["path"] for hit in other["hits"]]
    assert search(word, "shapes:test:12#4", k=3)[0]["hits"] == found[1]["hits"]  # it is in there: no encoder is needed
    with pytest.raises(UsageError, match=r"^the encoder of the queries \(\w{12}\) is not the one of the index"):
        search(word, queries, encoder=tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="a database holds no encoder: give --encoder"):
        search(word, queries)
    capsys.readouterr()
    dispatch(["search", "shapes:test:12#4", "-k", "3", f"--from={word}", "--json"])
    assert '"query": "shapes:test:12#4"' in capsys.readouterr().out
    build(tmp_path / "encoder.safetensors", "shapes:test:14", folder, to=word, update=True, **options)
    assert len(StoredIndex(open_database(word))) == 14


def test_a_copy_of_postgres_that_only_reads_is_searched(
    build_index: BuildIndex, request: pytest.FixtureRequest
) -> None:
    for module_name in ("psycopg", "pgvector"):
        pytest.importorskip(module_name, reason="the extra pgvector is not installed")
    address = request.getfixturevalue("postgres")
    store(own := build_index(noise(5)), open_database(f"pgvector:{address}#only_read"), overwrite=True)
    sign = "&" if "?" in address else "?"
    found = StoredIndex(
        open_database(f"pgvector:{address}{sign}options=-c%20default_transaction_read_only%3Don#only_read")
    )
    np.testing.assert_array_equal(found.search(noise(2), 3).position, own.search(noise(2), 3).position)
    with pytest.raises(ToolkitError, match="read-only transaction"):
        store(own, found.database, overwrite=True)
    assert len(found) == 5


def test_an_empty_database_says_so(word: str) -> None:
    with pytest.raises(UsageError, match="holds no index: write one with `ssl-toolkit index --to`"):
        StoredIndex(open_database(word))


def test_a_server_that_is_not_there_is_said_in_a_line_without_its_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for kind, scheme in (("qdrant", "http"), ("milvus", "http"), ("pgvector", "postgresql")):
        if not _installed(CLIENTS[kind]):
            continue
        with pytest.raises(ToolkitError) as error:
            open_database(f"{kind}:{scheme}://me:secret@127.0.0.1:{port}/x")
        assert "secret" not in str(error.value)
        assert str(error.value).startswith(f"{kind}:{scheme}://me:***@127.0.0.1:{port}/x: ")
        assert len(str(error.value).splitlines()) == 1


def _installed(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lancedb:", r"^lancedb:: name a database as lancedb:ADDRESS#TABLE"),
        ("qdrant:http://h#a b", "the table in letters, digits and _"),
        ("pgvector:postgresql://h/x#a;drop", "the table in letters"),
        ("quadrant:x", "unknown database 'quadrant': did you mean qdrant"),
    ],
)
def test_a_word_that_names_none_is_refused(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_database(word)


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ssl_toolkit.eval.search.databases.qdrant", None)
    with pytest.raises(UsageError, match=r"a database qdrant needs .*pip install '\.\[qdrant\]'"):
        open_database("qdrant:x")


def test_words_and_folders_are_told_apart() -> None:
    assert is_database("lancedb:x")
    assert not any(map(is_database, ("index/", "lancedb", "c:lancedb", Path("lancedb:x"), None)))
    assert hidden("pgvector:postgresql://u:p@h/d") == "pgvector:postgresql://u:***@h/d"
    assert hidden("qdrant:http://h:6333#t") == "qdrant:http://h:6333#t"


@pytest.mark.parametrize(
    "word",
    [
        "postgresql://me:sec/ret@h/d",
        "postgresql://me:sec@ret@h/d",
        "postgresql://h/d?user=me&password=sec@ret",
        "host=h password = secret user=me",
        r"password='a sec\'ret word' host=h",
    ],
)
def test_passwords_are_hidden_wherever_they_stand(word: str) -> None:
    assert not re.search("sec|ret", hidden(f"pgvector:{word}"))
    assert "***" in hidden(word)
    assert hidden(f"no server on {word}: secret").startswith("no server on ")


class Table(Database):
    """In memory: each vector finds as many rows as `found` says."""

    found: Sequence[int] = ()
    closed = False

    def __init__(self, word: str = "memory:x") -> None:
        super().__init__("x", "images", word)
        self.rows: list[Row] = []
        self.said: dict[str, Any] | None = None

    def close(self) -> None:
        self.closed = True

    def exists(self) -> bool:
        return self.said is not None

    def write(self, about: About, rows: Iterator[Rows]) -> None:
        self.said = about.words()
        for part in rows:
            self.rows += map(Row, part.id, part.path, part.label, part.stamp)

    def about(self) -> dict[str, Any] | None:
        return self.said

    def count(self) -> int:
        return len(self.rows)

    def near(self, vectors: NDArray[np.float32], k: int, metric: str) -> list[list[Row]]:
        return [self.rows[: min(count, k)] for _, count in zip(vectors, self.found, strict=True)]

    def at(self, path: str) -> Row | None:
        return None

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return np.zeros((len(ids), 8), np.float32)


def test_a_table_that_finds_fewer_for_some_gives_as_many_for_each(build_index: BuildIndex) -> None:
    store(build_index(noise(9)), table := Table())
    table.found = [7, 5, 9]
    hits = StoredIndex(table).search(noise(3), 8)
    assert (hits.position.shape, [len(row) for row in hits.path]) == ((3, 5), [5, 5, 5])
    table.found = [0, 3]
    assert StoredIndex(table).search(noise(2), 8).position.shape == (2, 0)
    table.found = [6, 4]
    assert StoredIndex(table).neighbours_of(np.array([2, 8]), 5).position.tolist() == [[0, 1, 3, 4], [0, 1, 2, 3]]


def test_a_table_is_asked_for_room_before_the_work_and_no_connection_outlives_its_use(
    tmp_path: Path, small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    opened: list[Table] = []

    def open_table(word: str) -> Table:
        opened.append(table := Table(word))
        if len(opened) > 1:
            table.rows, table.said = opened[0].rows, opened[0].said
        return table

    monkeypatch.setattr("ssl_toolkit.eval.search.databases.open_database", open_table)
    options: dict[str, Any] = {"workers": 0, "progress": False}
    build(tmp_path / "encoder.safetensors", "shapes:test:4", tmp_path / "index", to="lancedb:x", **options)
    opened[0].said = opened[-1].said  # it is there from now on
    with pytest.raises(UsageError, match="lancedb:x holds a table images already: give --overwrite"):
        build(tmp_path / "encoder.safetensors", "shapes:test:4", tmp_path / "other", to="lancedb:x", **options)
    assert not (tmp_path / "other").exists()
    Table.found = [1]
    search("lancedb:x", "shapes:train:4#0", k=1, encoder=tmp_path / "encoder.safetensors", progress=False)
    assert [table.closed for table in opened] == [True] * 4


def test_words_are_asked_with_the_text_tower_beside_the_encoder_that_is_given(
    tmp_path: Path, small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    table = Table()
    table.rows, table.found = [Row(0, "a.jpg", None, None)], [1]
    table.said = About(1, small_encoder.feature_dim, "cosine", sha256, False, "x").words()
    monkeypatch.setattr("ssl_toolkit.eval.search.databases.open_database", lambda word: table)
    with pytest.raises(UsageError, match=r"^a database holds no encoder: give --encoder, that of the index$"):
        search("lancedb:x", "text:a red car")
    search("lancedb:x", np.ones((1, small_encoder.feature_dim), np.float32), grid=tmp_path / "grid.png")
    assert (tmp_path / "grid.png").is_file()  # vectors need none
    with pytest.raises(
        UsageError, match=r"^texts need an encoder with a text tower, and beside .*encoder\.safetensors"
    ):
        search("lancedb:x", "text:a red car", encoder=tmp_path / "encoder.safetensors")
    tower = TextTower(TextConfig("bytes", small_encoder.feature_dim, 16, 1))
    save_text(tower, tmp_path / TEXT_FILE)
    found = search("lancedb:x", "text:a red car", encoder=tmp_path / "encoder.safetensors")
    assert [hit["path"] for hit in found[0]["hits"]] == ["a.jpg"]


def test_a_token_that_a_server_refuses_is_said_in_a_line() -> None:
    pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.end_headers()
            self.wfile.write(b"forbidden\nmore of it")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ToolkitError, match=r"^qdrant:http://127\.0\.0\.1:\d+: .*403 \(Forbidden\)$"):
            open_database(f"qdrant:http://127.0.0.1:{server.server_port}")
        server.shutdown()
