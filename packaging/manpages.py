"""Writes the manual pages: python packaging/manpages.py DIRECTORY.

Nothing is told here a second time. Verbs and options come from the commands' own declarations, the
rest is chapters of README.rst:

    storeletctl.1   the verbs; chapters "storeletctl", "Getting your files back"
    storelet.d.5    chapters "Writing jobs", "Schedules and time", "Destinations", "Databases"
    storeletd.8     the options; chapters "Running the daemon", "Watching", "Security"

They are dated SOURCE_DATE_EPOCH where that is set, as package builders do.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
from docutils import nodes
from docutils.core import publish_doctree, publish_from_doctree
from docutils.writers.manpage import Writer

README = Path(__file__).parents[1] / "README.rst"
WHOLE_MANUAL = "The whole manual is README.rst, which packages put into /usr/share/doc/storelet."
# What the defaults of options come from; a page is not about the machine it is made on.
PLACES = ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "STORELET_SOCKET")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A manual page: what is said of the command, and the chapters that go with it."""

    name: str
    section: int
    purpose: str  # as in NAME: "name - purpose"
    synopsis: nodes.Node
    chapters: Sequence[str]
    parts: Sequence[nodes.section] = ()  # between the first chapter's own text and its subsections

    @property
    def title(self) -> str:
        """What other pages call it."""
        return f"{self.name}({self.section})"


def main() -> None:
    """Write all pages to the directory that the command line names."""
    parser = argparse.ArgumentParser(description="Write the manual pages.")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for name in PLACES:
        os.environ.pop(name, None)
    pages = [_describe_storeletctl(), _describe_jobs(), _describe_storeletd()]
    for page in pages:
        path = directory / f"{page.name}.{page.section}"
        path.write_text(_make_page(page, pages), encoding="utf-8")


def _describe_storeletctl() -> Page:
    """Make the page of storeletctl from what click knows of it."""
    from storeletd.ctl.commands import storeletctl

    context = click.Context(storeletctl, info_name="storeletctl", **storeletctl.context_settings)
    verbs = [each for each in storeletctl.commands.values() if not each.hidden]
    return Page(
        name="storeletctl",
        section=1,
        purpose=_purpose_of(storeletctl.help),
        synopsis=_usage_of(storeletctl, context),
        chapters=["storeletctl", "Getting your files back"],
        parts=[
            _section("Options", _options_of(storeletctl, context)),
            _section("Verbs", *(_describe_verb(verb, context) for verb in verbs)),
        ],
    )


def _describe_verb(verb: click.Command, parent: click.Context) -> nodes.section:
    context = click.Context(verb, info_name=verb.name, parent=parent)
    options = _options_of(verb, context)
    texts = [*_read_help(verb.help), *([options] if len(options) else []), *_read_help(verb.epilog)]
    return _section(str(verb.name), _usage_of(verb, context), *texts)


def _usage_of(command: click.Command, context: click.Context) -> nodes.Node:
    words = [context.command_path, *command.collect_usage_pieces(context)]
    return nodes.paragraph(
        "", "", nodes.strong("", words[0]), nodes.Text(" ".join(["", *words[1:]]))
    )


def _options_of(command: click.Command, context: click.Context) -> nodes.Node:
    """List the options; --help, which each verb has, stands with those of all verbs only."""
    options = command.get_params(context) if context.parent is None else command.params
    records = [
        each.get_help_record(context) for each in options if each.param_type_name == "option"
    ]
    return _definitions((term, [_spell(text)]) for term, text in filter(None, records))


def _read_help(text: str | None) -> Iterator[nodes.Node]:
    r"""Yield the paragraphs of a help text; as in click, one that begins with \b stays as it is."""
    for paragraph in re.split(r"\n\s*\n", (text or "").strip()):
        if paragraph.startswith("\b\n"):
            yield _literal_block(paragraph.removeprefix("\b\n"))
        elif paragraph:
            yield _spell(paragraph)


def _describe_jobs() -> Page:
    """Make the page of job files."""
    synopsis = "/etc/storelet.d/*.yaml\n/etc/storelet.d/*.yml\n/etc/storelet.d/*.py"
    return Page(
        name="storelet.d",
        section=5,
        purpose="backup jobs of storeletd",
        synopsis=_literal_block(synopsis),
        chapters=["Writing jobs", "Schedules and time", "Destinations", "Databases"],
    )


def _describe_storeletd() -> Page:
    """Make the page of storeletd from what argparse knows of it."""
    from storeletd.__main__ import make_parser

    parser = make_parser()
    options = ((_name_option(each), _describe_option(each)) for each in parser._actions)
    return Page(
        name="storeletd",
        section=8,
        purpose=_purpose_of(parser.description),
        synopsis=_spell("`storeletd` [OPTIONS]"),
        chapters=["Running the daemon", "Watching", "Security"],
        parts=[_section("Options", _definitions(options))],
    )


def _name_option(action: argparse.Action) -> str:
    value = action.metavar or "|".join(map(str, action.choices or ()))
    return f"{', '.join(action.option_strings)} {value}".strip()


def _describe_option(action: argparse.Action) -> list[nodes.Node]:
    return [_spell((action.help or "") % {**vars(action), "prog": "storeletd"})]


def _purpose_of(text: str | None) -> str:
    """Return a sentence as NAME has it."""
    sentence = (text or "").partition("\n")[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:]


# Text -------------------------------------------------------------------------------------------


def _section(title: str, *content: nodes.Node) -> nodes.section:
    return nodes.section("", nodes.title("", title), *content)


def _spell(text: str) -> nodes.paragraph:
    """Make a paragraph of a help text: what is in `backticks` is code."""
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    kinds = [
        nodes.Text(part) if n % 2 == 0 else nodes.literal("", part) for n, part in enumerate(parts)
    ]
    return nodes.paragraph("", "", *kinds)


def _literal_block(text: str) -> nodes.literal_block:
    return nodes.literal_block("", text)


def _definitions(items: Iterator[tuple[str, Sequence[nodes.Node]]]) -> nodes.definition_list:
    made = nodes.definition_list()
    for term, content in items:
        made += nodes.definition_list_item("", nodes.term("", term), nodes.definition("", *content))
    return made


# Pages ------------------------------------------------------------------------------------------


def _make_page(page: Page, pages: Sequence[Page]) -> str:
    """Return a page as troff."""
    manual = _read_chapters()
    homes = {
        identifier: each
        for each in pages
        for title in each.chapters
        for found in manual[title].findall(nodes.section)
        for identifier in found["ids"]
    }
    first, *further = (manual[title] for title in page.chapters)
    document = publish_doctree("")
    document += nodes.title("", page.name)
    document += nodes.subtitle("", page.purpose)
    document += _docinfo(page)
    document += _section("Synopsis", page.synopsis)
    document += _section("Description", *_own_text(first))
    document += [*page.parts, *_subsections(first)]
    for chapter in further:
        if text := _own_text(chapter):
            document += _section(chapter[0].astext(), *text)
        document += _subsections(chapter)
    others = ", ".join(each.title for each in pages if each is not page)
    document += _section("See also", _spell(f"{others}. {WHOLE_MANUAL}"))
    for reference in list(document.findall(nodes.reference)):
        reference.parent.replace(reference, _follow(reference, homes, page))
    for table in list(document.findall(nodes.table)):
        table.parent.replace(table, _list_rows(table))
    text = publish_from_doctree(
        document, writer=Writer(), settings_overrides={"output_encoding": "unicode"}
    )
    return _finish(text)


def _finish(text: str) -> str:
    """Set a page as others are: headings in capitals, lines ragged, no word cut in two."""
    text = re.sub(r"^\.SH .*", lambda match: match[0].upper(), text, flags=re.MULTILINE)
    text = re.sub(r"^(\.S[HS] .*)\n\.sp$", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"^(\.TH .*)", r"\1\n.nr HY 0\n.nh\n.ad l", text, flags=re.MULTILINE)


def _read_chapters() -> dict[str, nodes.section]:
    """Return the chapters of the manual by their titles."""
    settings = {"halt_level": 2, "report_level": 2}
    tree = publish_doctree(README.read_text(encoding="utf-8"), settings_overrides=settings)
    return {each[0].astext(): each for each in tree if isinstance(each, nodes.section)}


def _docinfo(page: Page) -> nodes.docinfo:
    """Return what stands in the page's head and foot."""
    date = time.strftime(
        "%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    )
    fields = {"manual_section": str(page.section), "manual_group": "Storelet"}
    return nodes.docinfo(
        "",
        nodes.version("", f"storelet {version('storelet')}"),
        nodes.date("", date),
        *(
            nodes.field(
                "", nodes.field_name("", name), nodes.field_body("", nodes.paragraph("", text))
            )
            for name, text in fields.items()
        ),
    )


def _own_text(chapter: nodes.section) -> list[nodes.Node]:
    """Return what a chapter says before its subsections.

    What it has before its first paragraph is an overview that the page gives in its own way.
    """
    content = [each for each in chapter[1:] if not isinstance(each, nodes.section)]
    while content and not isinstance(content[0], nodes.paragraph):
        content.pop(0)
    return content


def _subsections(chapter: nodes.section) -> list[nodes.section]:
    return [each for each in chapter if isinstance(each, nodes.section)]


def _follow(reference: nodes.reference, homes: dict[str, Page], page: Page) -> nodes.Node:
    """Return what stands for a link: a page has none."""
    text = reference.astext()
    if "refuri" in reference:
        uri = reference["refuri"]
        return nodes.Text(text if text == uri else f"{text} ({uri})")
    home = homes.get(reference["refid"])
    where = "" if home is page else f" ({home.title if home else 'README.rst'})"
    return nodes.inline("", "", nodes.emphasis("", text), nodes.Text(where))


def _list_rows(table: nodes.table) -> nodes.definition_list:
    """Make a list of a table, which would not fit 80 columns: the first column is the terms."""
    head = [row for part in table.findall(nodes.thead) for row in part]
    titles = [" ".join(entry.astext().split()) for entry in head[0]] if head else []
    rows = [list(row) for part in table.findall(nodes.tbody) for row in part]
    made = nodes.definition_list()
    for first, *others in rows:
        term = nodes.term("", "", *(each for block in first for each in list(block)))
        content = list(others[0]) if len(others) == 1 else [_list_cells(titles[1:], others)]
        made += nodes.definition_list_item("", term, nodes.definition("", *content))
    return made


def _list_cells(titles: Sequence[str], cells: Sequence[nodes.Node]) -> nodes.bullet_list:
    """Make a list of what a row has in several columns, each with its title."""
    made = nodes.bullet_list(bullet="-")
    for title, cell in zip(titles, cells, strict=True):
        text = (each for block in cell for each in list(block))
        made += nodes.list_item("", nodes.paragraph("", "", nodes.Text(f"{title}: "), *text))
    return made


if __name__ == "__main__":
    sys.exit(main())
