"""The command `keyvisor`. `main` is its way in; every verb has a module, its own or another package's."""

from keyvisor_guest.cli.command import main

__all__ = ["main"]
