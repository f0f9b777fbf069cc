"""How a secure container runs: what its config says, its files, and the sandbox around it."""
