"""The firmware's verbs of the command `keyvisor`: one module each, loaded when it is called."""
