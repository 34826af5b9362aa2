"""`embed-service completion`: a script by which a shell completes the command.

The script holds all commands and options, so that completing starts no Python: loading the service for each key press,
as the argument parser's own scripts do, takes seconds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import typer

NAME = "embed-service"

BASH = """_embed_service() {
    local path="" words="" word
    for word in "${COMP_WORDS[@]:0:$COMP_CWORD}"; do
        [[ $word == -* ]] || path+="${path:+ }${word##*/}"
    done
    case "$path" in
%s
    esac
    COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[$COMP_CWORD]}"))
}
complete -o default -F _embed_service embed-service"""

ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n" + BASH

FISH = """function __embed_service_at
    set -l path (string join ' ' (string match -v -- '-*' (commandline -opc)) | string replace -r '^[^ ]*/' '')
    for pattern in $argv
        string match -q -- $pattern $path; and return 0
    end
    return 1
end
%s"""


class Shell(StrEnum):
    """Shells that can complete the command."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(context: typer.Context, shell: Shell) -> None:
    """Print the script that makes a shell complete this command."""
    print(script(shell, places(context.find_root().command, NAME)))


@dataclass(frozen=True)
class Place:
    """What may follow a command: the commands of a group, or options, which other arguments may precede."""

    path: str
    words: Sequence[str]
    is_group: bool


def script(shell: Shell, known: Iterable[Place]) -> str:
    """The script that knows these places."""
    if shell is Shell.FISH:
        return FISH % "\n".join(map(_fish_line, known))
    return (BASH if shell is Shell.BASH else ZSH) % "\n".join(map(_bash_line, known))


def _bash_line(place: Place) -> str:
    pattern = f'"{place.path}"' if place.is_group else f'"{place.path}" | "{place.path} "*'
    return f'        {pattern}) words="{" ".join(place.words)}" ;;'


def _fish_line(place: Place) -> str:
    """A group is followed by one of its commands and by no file."""
    patterns = f'"{place.path}"' if place.is_group else f'"{place.path}" "{place.path} *"'
    no_files = "-f " if place.is_group else ""
    return f"complete -c {NAME} {no_files}-n '__embed_service_at {patterns}' -a '{' '.join(place.words)}'"


def places(command: Any, path: str) -> Iterator[Place]:
    """A command and those in it."""
    inner: Mapping[str, Any] = getattr(command, "commands", {})
    options = [max(each.opts, key=len) for each in command.params if each.opts[0].startswith("-")]
    yield Place(path, [*inner] or [*options, "--help"], bool(inner))
    for name, each in inner.items():
        yield from places(each, f"{path} {name}")
