"""`fastrnn completion`: a script that lets a shell complete the commands and options."""

from .common import require

_SHELLS = ("bash", "zsh", "fish")
_FILES, _FOLDERS = ("FILE", "PATH", "MODEL"), ("FOLDER",)  # names of values in the help that stand for paths


def add_parser(commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "completion",
        help="a script for the shell's completion",
        description="Print a script with which a shell completes commands, options, their choices and files after the "
        'TAB key. bash: eval "$(fastrnn completion bash)" in ~/.bashrc; zsh: fastrnn completion zsh > _fastrnn in a '
        "folder of $fpath; fish: fastrnn completion fish > ~/.config/fish/completions/fastrnn.fish.",
    )
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=f"one of {', '.join(_SHELLS)}")
    parser.set_defaults(run=run)


def run(arguments) -> None:
    """Print the script."""
    require("shtab", "shell completion", "completion")
    import shtab

    from . import build_parser

    parser, commands = build_parser()
    for command in commands.values():
        for action in command._actions:
            if action.metavar in (*_FILES, *_FOLDERS):
                paths = shtab.DIRECTORY if action.metavar in _FOLDERS else shtab.FILE
                action.complete = paths  # type: ignore[attr-defined]  # where shtab looks for it
    print(shtab.complete(parser, arguments.shell))
