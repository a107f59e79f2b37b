"""The project's own rules: who imports whom, sizes, names, linters."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import storelet
from tests.helpers import CLONE

# Who may import whom inside a package: a module, then what it may import, all of it further up.
LIBRARY = """
errors
logs
zipformat               errors
catalogue               zipformat
encryption              errors catalogue
deflate                 errors
observer                errors
abandoned
entry
source                  errors observer entry
names                   zipformat entry
output                  errors observer source
plan                    errors observer zipformat deflate entry source names output
packing                 observer zipformat deflate encryption entry source output plan
crew                    errors deflate
packer                  deflate encryption entry packing crew
layout                  zipformat catalogue deflate
archive                 observer deflate encryption entry output plan packing crew layout
reuse
retention               errors
destination
destination.finding     errors
destination.contract    errors reuse destination.finding
destination.mark        destination.contract
destination.deletion    errors destination.contract destination.mark
destination.filesystem  destination.finding
destination.directory   errors observer reuse destination.contract destination.mark
                        destination.deletion destination.finding destination.filesystem
destination.s3errors    errors
destination.s3client    errors observer destination.contract
destination.s3lock      errors destination.s3client destination.s3errors
destination.s3object    errors destination.contract destination.s3client destination.s3errors
destination.sending
destination.s3deletion  errors observer destination.contract destination.deletion
                        destination.s3client destination.s3errors destination.s3object
                        destination.sending
destination.s3upload    errors observer reuse destination.contract destination.s3client
                        destination.s3errors destination.s3object destination.sending
destination.s3policy
destination.s3settings  errors destination.contract destination.finding destination.s3client
                        destination.s3errors destination.s3lock destination.s3object
destination.s3          errors observer abandoned reuse destination.contract destination.mark
                        destination.deletion destination.s3client destination.s3errors
                        destination.s3lock destination.s3object destination.s3deletion
                        destination.s3upload destination.finding destination.s3policy
                        destination.s3settings
destination.trial       errors destination.contract
destination.examination errors reuse destination.contract destination.finding destination.trial
temporary               errors
label                   errors zipformat catalogue entry source destination.contract
                        destination.mark
pruning                 errors observer zipformat retention label destination.contract
previous                errors zipformat catalogue deflate reuse destination.contract
matching                zipformat catalogue plan reuse previous
inspection              errors zipformat catalogue encryption reuse destination.contract layout
                        previous
delivery                errors observer catalogue encryption reuse destination.contract label
                        layout previous matching inspection
spooled                 errors observer deflate encryption entry output plan layout archive reuse
                        destination.contract temporary label previous matching delivery
streamed                errors observer zipformat deflate encryption entry output plan layout
                        archive destination.contract label matching delivery
restore
restore.endrecord       catalogue
restore.listing         zipformat catalogue deflate restore.endrecord
restore.paths           restore.listing
restore.content         errors zipformat catalogue encryption restore.listing restore.paths
restore.salvage         zipformat catalogue restore.endrecord restore.listing restore.content
restore.target          errors restore.listing restore.paths
restore.patterns        errors restore.listing
restore.reading         restore.listing restore.content
restore.comparing       restore.listing
restore.survey          catalogue restore.listing restore.paths restore.content restore.reading
                        restore.target
restore.unpacking       errors catalogue restore.listing restore.paths restore.content
                        restore.comparing restore.reading restore.target
restore.unpacker        crew restore.comparing restore.target restore.unpacking
restore.extraction      errors observer catalogue deflate crew restore.listing restore.paths
                        restore.comparing restore.content restore.reading restore.survey
                        restore.target restore.unpacking
restore.places          errors destination.directory destination.s3
restore.opened          errors zipformat catalogue encryption destination.contract destination.s3
                        label restore.listing restore.paths restore.content restore.patterns
                        restore.reading restore.survey restore.target restore.extraction
                        restore.places restore.salvage
backup                  errors observer entry source deflate encryption output temporary label
                        matching spooled streamed destination.contract destination.directory
                        destination.s3 destination.s3lock
"""
DAEMON = """
expression
schedule                expression
secrets
events
rights
trust
limits
values                  schedule secrets
items
includes                values items
saves                   values items
settings                values items includes saves
jobs                    secrets settings
journal                 jobs
declaration             values includes saves settings jobs
yamlfile                declaration jobs
modulefile              declaration jobs settings
jobfile                 declaration jobs settings yamlfile modulefile
jobdir                  trust jobs jobfile
masking                 secrets settings jobs yamlfile modulefile jobfile
planner                 schedule
schema
database                schema
records                 schedule events
proofs
history                 schedule events database records proofs
jobstate                schedule database records
agenda                  schedule journal jobs planner records history jobstate
simulation              schedule jobs planner jobstate agenda
overdue                 journal jobs planner history jobstate
verification            jobs planner history jobstate agenda
brake
troubles                jobs records history jobstate
process                 events
order                   events jobs brake troubles
launch                  rights jobs process order
errand                  events order launch
aftermath               events jobs order errand
readiness               events journal jobs order errand
notifying               events journal jobs history jobstate troubles order errand
run                     events journal limits jobs planner database records proofs history
                        jobstate brake process order launch aftermath
runner                  schedule events jobs planner records history jobstate run
sweep                   events journal jobs database history order errand
alarm
daemon                  journal jobs jobdir planner database history jobstate agenda overdue
                        verification readiness notifying runner sweep alarm
metrics                 jobs records daemon
intake                  journal jobs
messages                events records run
foreground              events jobs jobfile jobdir database history jobstate run runner messages
answers                 jobs planner records proofs jobstate messages daemon
listener
serving                 intake
exporter                daemon metrics serving
textfile                daemon metrics
server                  values run runner daemon exporter intake messages answers listener
                        serving
notice                  daemon
__main__                journal jobdir database daemon exporter listener server
                        textfile notice
programs

keeper
channel                 secrets events
destinations            secrets saves jobs
commands                rights jobs
sqlitecopy
dumps                   includes
dumping                 rights includes secrets jobs commands dumps
checkup                 includes saves jobs destinations dumping
hooks                   jobs order commands
pinging                 secrets jobs order
steps                   rights includes settings jobs destinations commands dumping
proving                 events jobs proofs order destinations
posting                 secrets jobs troubles
worker                  rights secrets events jobs brake order channel destinations hooks
                        pinging steps proving posting
"""
# What storeletctl takes from the daemon, for the verbs that need none running.
FOR_CTL = {
    f"storeletd.{name}"
    for name in (
        *("schedule", "values", "jobs", "jobfile", "jobdir", "simulation", "destinations"),
        *("foreground", "includes", "dumps", "dumping", "checkup", "masking", "sqlitecopy"),
        "trust",
    )
}

# What the daemon may know of the library, beside the names that `storelet` itself makes public.
PUBLIC_MODULES = {"storelet", "storelet.errors"}
# Entry points: processes of their own, which nothing imports.
ENTRY_POINTS = {
    *("storeletd.__main__", "storeletd.programs", "storeletd.keeper"),
    *("storeletd.worker", "storelet.packer", "storelet.restore.unpacker"),
}
# Each costs time and memory that a script may not need; the daemon itself never does.
HEAVY = {
    "Cryptodome",
    "apprise",
    "boto3",
    "botocore",
    "cryptography",
    "deflate",
    "isal",
    "pathspec",
    "zlib_ng",
}

MODULE_LINES = 400
BODY_LINES = 60
USUAL_BODY_LINES = 25  # of nine functions in ten


@cache
def modules() -> dict[str, ast.Module]:
    """Read every module of both packages, by dotted name; a package goes by its own name."""
    found = {}
    for package in ("storelet", "storeletd"):
        for path in sorted((CLONE / package).rglob("*.py")):
            parts = path.relative_to(CLONE).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports_in(statement: ast.stmt) -> Iterator[tuple[str, str | None]]:
    """Yield (module, None or the name taken from it) if the statement is an import."""
    match statement:
        case ast.Import(names=names):
            yield from ((each.name, None) for each in names)
        case ast.ImportFrom(module=str(source), names=names, level=0):
            for each in names:
                inner = f"{source}.{each.name}"
                yield (inner, None) if inner in modules() else (source, each.name)
        case ast.ImportFrom():
            pytest.fail(f"{ast.unparse(statement)}: write the whole name")


def imports_of(module: str) -> Iterator[tuple[str, str | None]]:
    """Yield what is imported anywhere in `module`, be it in a function or for types only."""
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.stmt):
            yield from imports_in(node)


def own_imports_of(module: str) -> set[str]:
    """Name the modules of ours that `module` imports."""
    return {source for source, _ in imports_of(module) if source in modules()} - {module}


def read_table(text: str) -> dict[str, list[str]]:
    """Read a table from above; an indented line goes on with the row before."""
    rows = re.sub(r"\n +", " ", text).split("\n")
    return {words[0]: words[1:] for row in rows if (words := row.split())}


@pytest.mark.parametrize(("package", "text"), [("storelet", LIBRARY), ("storeletd", DAEMON)])
def test_imports_go_one_way(package: str, text: str) -> None:
    table = read_table(text)
    for number, (name, allowed) in enumerate(table.items()):
        assert set(allowed) <= set(list(table)[:number]), f"{name} looks down or at itself"
    for module in modules():
        name = module.removeprefix(f"{package}.")
        if name == module or name.split(".")[0] == "ctl":
            continue
        assert name in table, f"give {module} a row in the table, among its equals"
        own = {each for each in own_imports_of(module) if each.split(".")[0] == package}
        beyond = {each.removeprefix(f"{package}.") for each in own - {package}} - {*table[name]}
        assert not beyond, f"{module} may not import {beyond}"
    assert not {name for name in table if f"{package}.{name}" not in modules()}, "rows for nothing"


def test_library_knows_nothing_of_the_daemon() -> None:
    for module in modules():
        if module.split(".")[0] == "storelet":
            own = {each.split(".")[0] for each in own_imports_of(module)}
            assert own <= {"storelet"}, module


def test_daemon_uses_only_public_names_of_the_library() -> None:
    for module in modules():
        if module.split(".")[0] != "storeletd":
            continue
        for source, name in imports_of(module):
            if source.split(".")[0] == "storelet":
                assert source in PUBLIC_MODULES, f"{module} imports {source}"
            if source == "storelet" and name is not None:
                assert name in storelet.__all__, f"{module} imports {name}"


def test_nobody_imports_an_entry_point() -> None:
    for module in modules():
        for source in own_imports_of(module):
            assert source not in ENTRY_POINTS, f"{module} imports {source}"
            if not module.startswith("storeletd.ctl"):
                assert not source.startswith("storeletd.ctl"), f"{module} imports {source}"
            elif not source.startswith("storeletd.ctl"):
                assert source in FOR_CTL | {"storelet"}, f"{module} imports {source}"


def test_storeletctl_imports_heavy_modules_only_in_the_verb_that_needs_them() -> None:
    for module in modules():
        if module.startswith("storeletd.ctl"):
            for node in modules()[module].body:
                for source, _ in imports_in(node):
                    top = source.split(".")[0]
                    allowed = top in {"click", *sys.stdlib_module_names}
                    assert allowed or source.startswith("storeletd.ctl"), f"{module}: {source}"


def test_keeper_needs_the_standard_library_only() -> None:
    for source, _ in imports_of("storeletd.keeper"):
        assert source.split(".")[0] in sys.stdlib_module_names, source


@pytest.mark.parametrize("module", ["storelet", "storeletd.__main__"])
def test_import_is_light(module: str) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=CLONE, text=True)
    assert not HEAVY & set(loaded.split())


def test_import_configures_no_logging() -> None:
    code = "import storelet, logging; print(logging.root.handlers, logging.root.level)"
    said = subprocess.check_output([sys.executable, "-c", code], cwd=CLONE, text=True)
    assert said == "[] 30\n"


def test_modules_say_what_they_are() -> None:
    for module, tree in modules().items():
        assert ast.get_docstring(tree), f"{module} has no docstring"


def test_public_names_are_listed_in_order() -> None:
    for module, tree in modules().items():
        names = next(
            (
                ast.literal_eval(node.value)
                for node in tree.body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            ),
            None,
        )
        defined = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)
        if names is None:
            assert not defined or module in ENTRY_POINTS, f"{module} has no __all__"
        else:
            order = sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
            assert list(names) == order, f"{module}: CONSTANTS, Classes, functions"


def test_modules_are_short() -> None:
    for package in ("storelet", "storeletd"):
        for path in (CLONE / package).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= MODULE_LINES, f"{path}: {lines} lines; split it along a noun"


def test_functions_are_short() -> None:
    lengths = {}
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[bool(ast.get_docstring(node)) :] or node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1
                assert lines <= BODY_LINES, f"{module}.{node.name}: {lines} lines"
                lengths[module, node.name, node.lineno] = lines
    long = [each for each, lines in lengths.items() if lines > USUAL_BODY_LINES]
    assert len(long) <= len(lengths) / 10, f"too many long functions: {long}"


@pytest.mark.parametrize(
    "command",
    # ruff's cache holds whose a module is, and may be wrong about one that is new since.
    [("ruff", "check", "--no-cache"), ("ruff", "format", "--check"), ("mypy",)],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_linter_is_content(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=CLONE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_names_the_machine_it_was_written_on() -> None:
    places = ["/" + "work/", "/" + "root/.pyenv"]  # in two, or this file would name them
    for path in tracked_files():
        text = path.read_bytes().decode(errors="replace")
        assert not [place for place in places if place in text], path


def tracked_files() -> list[Path]:
    """List the project's files: those git knows or would add; in a tarball, all there are."""
    git = ("git", "-c", f"safe.directory={CLONE}")
    command = (*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    done = subprocess.run(command, cwd=CLONE, capture_output=True, text=True)
    if done.returncode != 0:
        return [path for path in CLONE.rglob("*") if path.is_file() and ".venv" not in path.parts]
    paths = [CLONE / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_version_stands_in_the_changes() -> None:
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    release = project["version"].partition(".dev")[0]
    assert f"\n{release} " in (CLONE / "CHANGELOG.rst").read_text(encoding="utf-8")
