"""Tab completion for bash.

`--shell-completion install=bash` prints a function for the user's shell. At each Tab it calls
`--shell-completion query=LINE`, which prints what the last word of LINE may become: commands, runs, flags,
settings and their values. Imports no Hydra, because a key press must not wait for it.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from mnist_cnn import compose
from mnist_cnn.backend import Status
from mnist_cnn.backends import BACKENDS, backend_class
from mnist_cnn.config import RunConfig, SearchConfig
from mnist_cnn.errors import ConfigurationError, MnistCnnError
from mnist_cnn.hints import program
from mnist_cnn.run_folder import LATEST, RECEIPT
from mnist_cnn.settings import full_key, value_keys, with_inner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnist_cnn.settings import Section

BASH = r"""_mnist_cnn() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    local program=("$1")
    COMPREPLY=()
    [[ ${1##*/} == mnist-cnn ]] || program+=(-m mnist_cnn)
    [[ ${#program[@]} == 1 || $line == *" -m mnist_cnn "* ]] || return
    COMPREPLY=($("${program[@]}" --shell-completion "query=$line" 2>/dev/null))
    # bash takes "=" for the beginning of another word, unless COMP_WORDBREAKS was changed
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    [[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace 2>/dev/null
}
complete -o bashdefault -o default -F _mnist_cnn mnist-cnn python python3
"""
TAKE_FOLDER = ("--config-dir", "-cd")


def answer(arguments: Sequence[str]) -> list[str]:
    """Return the lines that `--shell-completion` prints.

    Raises ConfigurationError for another argument.
    """
    what, _, line = arguments[0].partition("=") if arguments else ("", "", "")
    if what == "query":
        return candidates(line)
    if (what, line) != ("install", "bash"):
        given = f" {arguments[0]}" if arguments else ""
        hint = f'turn it on: eval "$({program()} --shell-completion install=bash)"'
        raise ConfigurationError(f"--shell-completion{given}: must be install=bash", hint)
    return [BASH]


def candidates(line: str) -> list[str]:
    """Return what the line's last word may become.

    That word is empty if the line ends with a space.
    """
    *before, word = line.split(" ")
    given = before[before.index("mnist_cnn") + 1 :] if "mnist_cnn" in before else before[1:]
    # What follows --config-dir is its folder.
    pairs = zip(given, ["", *given], strict=False)
    words = [text for text, flag in pairs if text and flag not in TAKE_FOLDER and not _is_setting(text)]
    try:
        return [text for text in _possible(words, given, word) if text.startswith(word)]
    except MnistCnnError:  # of a backend that cannot be imported
        return []


def _is_setting(text: str) -> bool:
    """Return whether a word is KEY=VALUE or a flag."""
    return "=" in text or text.startswith("-")


def _possible(words: Sequence[str], given: Sequence[str], word: str) -> Iterator[str]:
    from mnist_cnn.cli import filters
    from mnist_cnn.cli.catalog import COMMANDS, FLAGS, TAKE_RUN
    from mnist_cnn.cli.help import TOPICS

    settings = dict(text.split("=", 1) for text in given if "=" in text)
    key, is_value, _ = word.partition("=")
    if is_value:
        yield from (f"{key}={value}" for value in _values(key, settings))
    elif word.startswith("-"):
        own = COMMANDS[words[0]].flags if words and words[0] in COMMANDS else ()
        yield from (*(flag.partition(" ")[0] for flag in FLAGS), *own)
    elif words and words[0] in TAKE_RUN and (len(words) == 1 or COMMANDS[words[0]].words.endswith("RUN...")):
        runs_dir = Path(settings.get("runs_dir", RunConfig.runs_dir))
        yield from (LATEST, *sorted(receipt.parent.name for receipt in runs_dir.glob(f"*/{RECEIPT}")))
    elif words == ["help"]:
        yield from dict.fromkeys((*TOPICS, *COMMANDS))
    elif words == ["cluster"]:
        yield from COMMANDS["cluster"].words.split("|")
    elif not (words and words[0] == "predict"):  # which takes the names of pictures
        yield from () if words else COMMANDS
        yield from (f"{fact}=" for fact in filters.FACTS if words == ["list"])
        yield from (f"{group}=" for group in (*compose.GROUPS, compose.SEARCH))
        yield from (f"{full_key(section, name)}=" for section, name in _keys(settings))


def _keys(settings: dict[str, str]) -> Iterator[tuple[type[Section], str]]:
    """Yield every key, including the chosen backend's."""
    backend = backend_class(settings.get("backend", next(iter(BACKENDS)))).CONFIG
    for section in with_inner(*compose.SECTIONS, SearchConfig, backend):
        for name, _ in value_keys(section):
            yield section, name


def _values(key: str, settings: dict[str, str]) -> Iterator[str]:
    """Yield the possible values of a group or key.

    Of a key, only if it takes one of a few.
    """
    if key in (*compose.GROUPS, compose.SEARCH):
        yield from compose.options(key)
    if key == "status":  # a filter of `list`
        yield from (status.value for status in Status)
    for section, name in _keys(settings):
        if full_key(section, name) == key:
            kind: Any = get_type_hints(section)[name]
            for member in get_args(kind) or (kind,):
                if member is bool:
                    yield from ("true", "false")
                elif isinstance(member, type) and issubclass(member, Enum):
                    yield from (str(choice.value) for choice in member)
