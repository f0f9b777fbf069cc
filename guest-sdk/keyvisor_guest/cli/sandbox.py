"""The bubblewrap sandbox of `keyvisor guest exec --sandbox`, as a command line; and what exec does to CMD's own.

What the command can reach: the system's programs and libraries to read, its working directory, and one guest's
doors. Knows only paths; runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keyvisor_guest.errors import CommandUnusable

__all__ = ["name_module", "sandboxed"]

_ROOTS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # links into /usr on a merged system
_UNBOUND = frozenset({Path("/"), Path("/tmp")})  # noqa: S108  # the sandbox has its own of these two

# What takes the path of a PKCS#11 module: pkcs11-tool's option, p11tool's option.
_MODULE_OPTIONS = frozenset({"--module", "--provider"})


def name_module(command: Sequence[str], module: Path) -> list[str]:
    """`command` with `module` where an option that takes one has an empty argument.

    That is what the shell leaves of `--module "$KEYVISOR_PKCS11_MODULE"` when the variable is not set yet: it
    expands the line before exec can set it. No program can use an empty path, so nothing else can be meant.
    """
    named: list[str] = []
    for argument in command:
        if argument == "" and named and named[-1] in _MODULE_OPTIONS:
            named.append(str(module))
        elif argument.endswith("=") and argument[:-1] in _MODULE_OPTIONS:
            named.append(f"{argument}{module}")
        else:
            named.append(argument)
    return named


def sandboxed(
    command: Sequence[str], *, state: Path, doors: Path, module: Path, directory: Path, root: Path = Path("/")
) -> list[str]:
    """The command line that runs `command` in the sandbox.

    `state` and `doors` (the guest's directory in it) are resolved paths, `directory` is the working directory,
    `module` the PKCS#11 client. Later arguments lie over earlier ones: the state directory is covered after
    everything that could show it, and only then the guest's doors are put back, to read (which is enough to
    connect). Raises CommandUnusable for a working directory inside the state directory.
    """
    if directory.is_relative_to(state):
        raise CommandUnusable(
            f"`{directory}` is in the state directory, which a sandboxed command must not see: run from another one"
        )
    return [
        "bwrap",
        "--unshare-all",  # with it the network; a Unix socket is reached by its path all the same
        "--die-with-parent",
        "--new-session",  # no ioctl(TIOCSTI) into the caller's terminal
        *("--cap-drop", "ALL"),  # root in the sandbox must not take the cover off the state directory
        *("--tmpfs", "/tmp"),  # noqa: S108  # a mount point in the sandbox, not a file
        *(() if directory in _UNBOUND else ("--bind", str(directory), str(directory))),
        *("--ro-bind", "/usr", "/usr"),
        *("--ro-bind", "/etc", "/etc"),
        *_system_links(root),
        *("--ro-bind", str(module), str(module)),
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *("--tmpfs", str(state)),
        *("--ro-bind", str(doors), str(doors)),
        *("--chdir", str(directory)),
        "--",
        *command,
    ]


def _system_links(root: Path) -> list[str]:
    arguments: list[str] = []
    for name in _ROOTS:
        path = root / name
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), f"/{name}"]
        elif path.is_dir():
            arguments += ["--ro-bind", f"/{name}", f"/{name}"]
    return arguments
