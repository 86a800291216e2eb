"""What the documents say of the code, held against the code."""

import ast
import doctest
import importlib
import io
import re
import shlex
import subprocess
import sys
import tokenize

import pytest
from conftest import ROOT

import spft

LOCAL = {"data", "model", "spft", "sqlexec"}
TORCH = {"torch", "numpy", "tokenizers", "safetensors", "tqdm", "huggingface_hub", "jinja2"}


def tracked():
    """Paths of all files under version control, relative to the project."""
    listing = subprocess.run(["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT,
                             capture_output=True, text=True, check=True).stdout
    return listing.strip("\0").split("\0")


def sources(*folders):
    """Tracked .py files at the top and in folders; all where none is named."""
    return [path for path in tracked() if path.endswith(".py")
            and (not folders or path.rpartition("/")[0] in ("", *folders))]


RUNTIME = [path for path in sources() if not path.startswith("tests/")]


# ---------------------------------------------------------------------------------------------
# spft.py: the equations and the map

def tagged_lines(text):
    """{equation number: lines with code and a comment that names it}."""
    places, code = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.OP):
            code.add(token.start[0])
        if token.type == tokenize.COMMENT and token.start[0] in code:
            for number in re.findall(r"Eq\. (\d)", token.string):
                places.setdefault(int(number), []).append(token.start[0])
    return places


@pytest.mark.parametrize("number, code", [
    (1, r"= \[.* if (not )?same\]"), (2, r"return .*correct"), (3, r"return logistic\(")])
def test_each_equation_is_tagged_where_it_is_computed(number, code):
    text = (ROOT / "spft.py").read_text()
    first = tagged_lines(text)[number][0]
    assert first <= 150 and re.search(code, text.splitlines()[first - 1])


def test_the_map_names_what_there_is():
    """`Eq. 1    split_by_execution    ...`: the second column is a function, the file is there."""
    entries = dict(re.findall(r"^    (Eq\. \d|Stage \d|Alg\. \d|\d\.\d) +(\w+) ", spft.__doc__,
                              re.M))
    assert {"Eq. 1", "Eq. 2", "Eq. 3", "Stage 0", "Alg. 1"} <= entries.keys()
    assert all(callable(getattr(spft, name, None)) for name in entries.values())
    for path in re.findall(r"\b[\w/]+\.py\b", spft.__doc__):
        assert (ROOT / path).is_file()


def test_the_map_leads_to_the_equations():
    """The function that the map names for an equation holds the equation's first tag."""
    text = (ROOT / "spft.py").read_text()
    spans = {node.name: range(node.lineno, node.end_lineno + 1)
             for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    for number, name in re.findall(r"^    Eq\. (\d) +(\w+)", spft.__doc__, re.M):
        assert tagged_lines(text)[int(number)][0] in spans[name]


def test_the_whole_method_comes_first():
    """By line 350 a reader has seen all of the paper, settings and plumbing come later."""
    text = (ROOT / "spft.py").read_text()
    ends = {node.name: node.end_lineno for node in ast.parse(text).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    named = re.findall(r"^    (?:Eq\. \d|Stage \d|Alg\. \d|\d\.\d) +(\w+) ", spft.__doc__, re.M)
    for name in (*named, "vbift_round", "players", "selfplay_round", "sample_pairs", "objective"):
        assert ends[name] < 350 < ends["Config"]
    assert "# Algorithm 1" in "\n".join(text.splitlines()[:350])


# ---------------------------------------------------------------------------------------------
# Commands

def commands(text):
    """The lines `python spft.py ...` of a text, continued lines joined, without what explains."""
    return re.findall(r"^[ \t$]*(python3? spft\.py\b.*?)(?:  +[^-\s].*| +#.*)?$",
                      text.replace("\\\n", " "), re.M)


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def assert_parses(command):
    words = shlex.split(command)[2:]
    config = spft.parse_config(words)
    for name, value in zip(words[::2], words[1::2]):
        assert name.startswith("--") and str(getattr(config, name[2:])) == str(
            type(getattr(config, name[2:]))(value))


def test_the_commands_of_the_readme_are_the_programs():
    found = commands(readme())
    assert "python spft.py --stage selfplay" in found
    for command in found:
        assert_parses(command)


def test_the_commands_of_the_docstring_are_the_programs():
    found = commands(spft.__doc__)
    assert len(found) >= 3
    for command in found:
        assert_parses(command)


def test_the_readme_links_equations_to_their_lines():
    lines = (ROOT / "spft.py").read_text().splitlines()
    links = re.findall(r"\[Eq\. (\d)\]\(spft\.py#L(\d+)\)", readme())
    assert {number for number, _ in links} == {"1", "2", "3"}
    for number, line in links:
        assert f"# Eq. {number}" in lines[int(line) - 1]


def test_the_readme_names_files_that_exist():
    linked = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", readme())
    named = re.findall(r"`((?:data|tests)/[\w./]+|\w+\.py)`", readme())
    assert linked and named
    for path in linked + named:
        assert (ROOT / path).exists(), path


def test_ci_runs_the_tests_as_the_readme_says():
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    command, = (line for line in ci if re.search(r"\bpytest\b", line) and line[0] != "#")
    assert command in map(str.strip, readme().splitlines())


# ---------------------------------------------------------------------------------------------
# The code as a whole

@pytest.mark.parametrize("path", RUNTIME)
def test_examples_in_docstrings_are_true(path):
    module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__")
                                     .replace("/", "."))
    assert doctest.testmod(module).failed == 0


def test_some_docstring_has_an_example():
    assert any(">>> " in (ROOT / path).read_text() for path in RUNTIME)


def imports(tree, guarded=False):
    """(top-level module, is it inside `try`) of every import in a syntax tree."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0], guarded
        else:
            yield from imports(node, guarded or isinstance(node, ast.Try))


@pytest.mark.parametrize("path", RUNTIME)
def test_imports_are_few(path):
    """The verifier and the data need the standard library alone."""
    allowed = set(sys.stdlib_module_names) | LOCAL
    if path in ("spft.py", "model.py", "data/pretraining/__main__.py", "data/report/resume.py",
                "data/report/progress.py", "data/prompts/pairs.py", "data/adapter/make.py"):
        allowed |= TORCH
    if path == "data/report/page.py":
        allowed |= {"matplotlib"}
    if path.endswith("/tokenizer.py"):
        allowed |= {"tokenizers", "jinja2"}
    for name, guarded in imports(ast.parse((ROOT / path).read_text())):
        assert name in allowed or (name == "matplotlib" and guarded), name


def test_what_is_imported_is_required():
    """requirements.txt names what runtime and tests import, and what calls tests; what its
    packages bring along needs no line of its own."""
    brought = {"tqdm", "huggingface_hub", "jinja2"}
    required = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in
                (ROOT / "requirements.txt").read_text().splitlines() if line.strip()}
    used = {name for path in RUNTIME for name, guarded in
            imports(ast.parse((ROOT / path).read_text())) if not guarded}
    assert used - set(sys.stdlib_module_names) - LOCAL - brought <= required
    assert "pytest" in required


@pytest.mark.parametrize("path", sources())
def test_lines_fit_in_100_columns(path):
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > 100] == []


@pytest.mark.parametrize("path", RUNTIME)
def test_functions_fit_on_a_screen(path):
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))))
    for kind, most in ((ast.FunctionDef, 45), (ast.ClassDef, 160)):
        assert [node.name for node in nodes if isinstance(node, kind)
                and node.end_lineno - node.lineno >= most] == []


def test_no_module_imports_itself_in_a_circle():
    """Packages count as their __init__.py."""
    names = {path[:-3].replace("/", ".").removesuffix(".__init__"): path for path in RUNTIME}

    def imported(path):
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                parts = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (part if part in names else node.module for part in parts)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)

    after = {name: set(imported(path)) & names.keys() - {name} for name, path in names.items()}
    while free := [name for name, needs in after.items() if not needs & after.keys()]:
        for name in free:
            del after[name]
    assert not after and names


def test_sqlexec_imports_nothing_of_ours():
    """Workers run the file alone, without site-packages."""
    assert not {name for name, _ in imports(ast.parse((ROOT / "sqlexec.py").read_text()))} & LOCAL


def test_the_top_level_is_small():
    assert {path.partition("/")[0] for path in tracked()} <= {
        ".ci", ".gitignore", "LICENSE", "README.md", "data", "model.py", "requirements.txt",
        "spft.py", "sqlexec.py", "tests"}


def test_no_database_is_tracked_but_as_text():
    assert not [path for path in tracked() if path.endswith((".sqlite", ".db"))]
