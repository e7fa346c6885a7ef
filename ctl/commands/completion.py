"""`completion`: a shell's Tab key for convergencectl."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys

from ..arguments import Parser, example

LIMIT = 2.0
"""Seconds after which the Tab key gets nothing."""
MAX_WORDS = 1 << 20
"""Characters of a command line that are looked at."""

BASH = """\
# Completion of convergencectl for bash (3.2 or newer).
_convergencectl() {
    local current="${COMP_WORDS[COMP_CWORD]}" word text paths=
    [ "$current" = "=" ] && current=
    COMPREPLY=()
    while IFS=$'\\t' read -r word text; do
        case $word in
            :files) paths=-f ;;
            :folders) paths=-d ;;
            *) COMPREPLY+=("$word") ;;
        esac
    done < <(
        printf '%s\\n' "${COMP_WORDS[@]:1:COMP_CWORD}" | convergencectl completion bash --words 2>/dev/null
    )
    if [ -n "$paths" ]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r word; do
            COMPREPLY+=("$word")
        done < <(compgen "$paths" -- "$current")
    fi
}
complete -F _convergencectl convergencectl
"""

ZSH = """\
#compdef convergencectl
# Completion of convergencectl for zsh.
_convergencectl() {
    local -a found
    local word text paths=
    while IFS=$'\\t' read -r word text; do
        case $word in
            :files) paths=files ;;
            :folders) paths=folders ;;
            *) found+=("${word//:/\\\\:}:$text") ;;
        esac
    done < <(
        printf '%s\\n' "${(@)words[2,CURRENT]}" | convergencectl completion zsh --words 2>/dev/null
    )
    (( $#found )) && _describe convergencectl found
    case $paths in
        files) _files ;;
        folders) _files -/ ;;
    esac
}
if [ "${funcstack[1]}" = _convergencectl ]; then
    _convergencectl "$@"
else
    compdef _convergencectl convergencectl
fi
"""

FISH = """\
# Completion of convergencectl for fish.
function __convergencectl_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (printf '%s\\n' $words[2..-1] "$current" | convergencectl completion fish --words 2>/dev/null)
        switch $line
            case ':files*'
                __fish_complete_path "$current"
            case ':folders*'
                __fish_complete_directories "$current"
            case '*'
                echo $line
        end
    end
end
complete -c convergencectl -f -a '(__convergencectl_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Prints what makes a shell's Tab key complete commands, options, and the names of your projects,\n"
        "sessions, peers and settings. Load it in the shell's own start file."
    )
    parser.epilog = example(
        "echo 'source <(convergencectl completion bash)' >> ~/.bashrc",
        "echo 'source <(convergencectl completion zsh)' >> ~/.zshrc   # after compinit",
        "convergencectl completion fish > ~/.config/fish/completions/convergencectl.fish",
    )
    parser.add_argument("shell", choices=sorted(SCRIPTS), help="which shell it is for")
    parser.add_argument("--words", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Prints the script; for the script, what could stand in the place of the last line of the input."""
    if not args.words:
        print(SCRIPTS[args.shell], end="")
        return 0
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    with contextlib.suppress(Exception):
        _answer(sys.stdin.read(MAX_WORDS).removesuffix("\n").split("\n"))
    return 0


def _answer(words: list[str]) -> None:
    from ..completion import candidates
    from ..render import clean

    lines = [f"{clean(one.word)}\t{clean(one.text)}".rstrip() for one in candidates(words)]
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
