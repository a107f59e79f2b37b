"""The verb completion: what a shell needs to complete the verbs, options, jobs and archives."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from storeletd.ctl import console
from storeletd.ctl.console import CommandError

__all__ = ["completion"]

_SHELLS = ("bash", "zsh", "fish")
_WHERE = """\b
bash  eval "$(storeletctl completion bash)" in ~/.bashrc
zsh   eval "$(storeletctl completion zsh)" in ~/.zshrc
fish  storeletctl completion fish > ~/.config/fish/completions/storeletctl.fish
"""


@click.command(epilog=_WHERE)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what SHELL has to read to complete command lines."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has these three
    program = kind(context.find_root().command, {}, "storeletctl", "_STORELETCTL_COMPLETE")
    try:
        console.print_line(program.source())
    except RuntimeError as error:  # an old bash
        raise CommandError(str(error)) from error
