"""A world of two small databases, a model of a few thousand weights, and the command line."""

import io
import json
import os
import sqlite3
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

if "gpu" not in sys.argv:              # `-m gpu`: all else is about a CPU, wherever it runs
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

DATABASES = {
    "zoo": """
        CREATE TABLE keeper (keeper_id INTEGER PRIMARY KEY, name TEXT, city TEXT);
        CREATE TABLE animal (animal_id INTEGER PRIMARY KEY, name TEXT, kind TEXT, age INTEGER,
            keeper_id INTEGER REFERENCES keeper (keeper_id));
        INSERT INTO keeper VALUES (1, 'Ann', 'Rome'), (2, 'Bob', 'Oslo'), (3, 'Eve', 'Rome');
        INSERT INTO animal VALUES (1, 'Leo', 'lion', 4, 1), (2, 'Zed', 'zebra', 7, 2),
            (3, 'Kim', 'lion', 2, 1), (4, 'Tom', 'tiger', 9, 3), (5, 'Uma', 'zebra', 3, 1),
            (6, 'Pip', 'penguin', 1, 2), (7, 'Max', 'tiger', 5, 2), (8, 'Ivy', 'lion', 8, 3);
        """,
    "shop": """
        CREATE TABLE product (product_id INTEGER PRIMARY KEY, name TEXT, color TEXT, price REAL);
        CREATE TABLE sale (sale_id INTEGER PRIMARY KEY, amount INTEGER, city TEXT,
            product_id INTEGER REFERENCES product (product_id));
        INSERT INTO product VALUES (1, 'chair', 'red', 20.5), (2, 'table', 'blue', 80.0),
            (3, 'lamp', 'red', 15.0), (4, 'desk', 'green', 120.0), (5, 'sofa', 'blue', 300.0),
            (6, 'shelf', 'green', 45.0);
        INSERT INTO sale VALUES (1, 2, 'Rome', 1), (2, 1, 'Oslo', 2), (3, 5, 'Rome', 3),
            (4, 1, 'Paris', 5), (5, 3, 'Oslo', 1), (6, 4, 'Paris', 6), (7, 2, 'Rome', 4);
        """,
}


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: what must be equal on a GPU; skipped without one")


# Some questions of val and test stand in train too, with other SQL of the same result: a model that
# learned train by heart gets those right.
PAIRS = {
    "train": [
        ("zoo", "names of lion", "SELECT name FROM animal WHERE kind = 'lion'"),
        ("zoo", "names of zebra", "SELECT name FROM animal WHERE kind = 'zebra'"),
        ("shop", "names in red", "SELECT name FROM product WHERE color = 'red'"),
        ("shop", "names in blue", "SELECT name FROM product WHERE color = 'blue'"),
        ("zoo", "how many animals", "SELECT COUNT(*) FROM animal"),
        ("shop", "how many products", "SELECT COUNT(*) FROM product"),
        ("zoo", "animals over 4", "SELECT name FROM animal WHERE age > 4"),
        ("zoo", "animals under 4", "SELECT name FROM animal WHERE age < 4"),
        ("shop", "products over 50", "SELECT name FROM product WHERE price > 50"),
        ("shop", "products under 40", "SELECT name FROM product WHERE price < 40"),
        ("zoo", "average age", "SELECT AVG(age) FROM animal"),
        ("shop", "average price", "SELECT AVG(price) FROM product"),
        ("zoo", "highest age", "SELECT MAX(age) FROM animal"),
        ("zoo", "animals of each kind", "SELECT kind, COUNT(*) FROM animal GROUP BY kind"),
        ("shop", "products of each color", "SELECT color, COUNT(*) FROM product GROUP BY color"),
        ("zoo", "oldest animal", "SELECT name FROM animal ORDER BY age DESC LIMIT 1"),
        ("zoo", "keepers of a lion", "SELECT DISTINCT T1.name FROM keeper AS T1 JOIN animal AS T2 "
         "ON T1.keeper_id = T2.keeper_id WHERE T2.kind = 'lion'"),
        ("shop", "products sold in Rome", "SELECT T1.name FROM product AS T1 JOIN sale AS T2 "
         "ON T1.product_id = T2.product_id WHERE T2.city = 'Rome'"),
        ("shop", "sum of amounts", "SELECT SUM(amount) FROM sale"),
        ("zoo", "animals by age", "SELECT name FROM animal ORDER BY age"),
    ],
    "val": [
        ("zoo", "names of tiger", "SELECT name FROM animal WHERE kind = 'tiger'"),
        ("zoo", "animals over 4", "SELECT name FROM animal WHERE age >= 5"),
        ("zoo", "how many animals", "SELECT COUNT(name) FROM animal"),
        ("zoo", "how many keepers", "SELECT COUNT(*) FROM keeper"),
        ("shop", "products over 100", "SELECT name FROM product WHERE price > 100"),
        ("shop", "how many products", "SELECT COUNT(name) FROM product"),
        ("shop", "how many sales", "SELECT COUNT(*) FROM sale"),
        ("shop", "average amount", "SELECT AVG(amount) FROM sale"),
    ],
    "test": [
        ("shop", "names in green", "SELECT name FROM product WHERE color = 'green'"),
        ("zoo", "animals over 2", "SELECT name FROM animal WHERE age > 2"),
        ("zoo", "animals under 4", "SELECT name FROM animal WHERE age <= 3"),
        ("zoo", "youngest animal", "SELECT name FROM animal ORDER BY age LIMIT 1"),
        ("shop", "products under 40", "SELECT name FROM product WHERE price <= 39"),
        ("shop", "highest price", "SELECT MAX(price) FROM product"),
        ("shop", "highest amount", "SELECT MAX(amount) FROM sale"),
        ("shop", "sales of each city", "SELECT city, COUNT(*) FROM sale GROUP BY city"),
    ],
}


def write_world(folder):
    """The two databases and three splits in Spider's layout."""
    for db_id, script in DATABASES.items():
        (folder / "database" / db_id).mkdir(parents=True)
        with closing(sqlite3.connect(folder / "database" / db_id / f"{db_id}.sqlite")) as db:
            db.executescript(script)
    for split, rows in PAIRS.items():
        (folder / f"{split}.json").write_text(json.dumps(
            [{"db_id": d, "question": q, "query": sql} for d, q, sql in rows]))
    return folder


def write_base(folder):
    """A checkpoint folder with random weights, its tokeniser learned on the world's texts."""
    import model as lm                  # torch is for the tests that need it
    from data.pretraining.tokenizer import train_tokenizer
    from data.prompts.tokenizer import Tokenizer
    texts = [text for rows in PAIRS.values() for _, question, sql in rows
             for text in (f"question: {question}\nsql:\n", sql)]
    train_tokenizer(texts + list(DATABASES.values()), 420, folder)
    tokenizer = Tokenizer(folder)
    config = lm.ModelConfig.tiny(tokenizer.core.get_vocab_size(), 64, layers=1,
                                 eos=(tokenizer.end,))
    lm.save_pretrained(lm.random_model(config), folder)
    return folder


# A run that takes seconds.
SETTINGS = dict(sft_epochs=40, epochs=3, batch=8, lr=8e-3, vbift_lr=8e-3, rounds=2, synthetic=24,
                questions=2, selfplay_rounds=1, max_new=40, temperature=0.5, decode_batch=16,
                threads=1)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "data")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="session")
def tokenizer(base):
    from data.prompts.tokenizer import Tokenizer
    return Tokenizer(base)


@pytest.fixture(scope="session")
def arguments(world, base):
    """The command line of a run that takes seconds; further options follow it and win."""
    settings = {**SETTINGS, "data": world, "model": base}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def cli(arguments):
    """cli(words...) runs the command line in this process: (exit code, stdout, stderr)."""
    import spft

    def call(*words):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = spft.main([*arguments, *map(str, words)])
            except SystemExit as end:
                code = end.code
        return code or 0, out.getvalue(), err.getvalue()
    return call


@pytest.fixture
def idle(monkeypatch):
    """Whoever trains or generates here fails."""
    import model as lm
    import spft

    def refuse(*arguments, **options):
        raise AssertionError("nothing is to be done")
    monkeypatch.setattr(spft, "fit", refuse)
    monkeypatch.setattr(lm, "generate", refuse)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def content(folder):
    """{path: bytes} of all files below."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
