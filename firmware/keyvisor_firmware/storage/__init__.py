"""Host-absolute storage: who holds it, and what the firmware keeps in what it was given."""
