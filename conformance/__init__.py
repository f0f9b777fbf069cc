"""`make conformance`: other people's programs through the broker and through plain SoftHSM, side by side.

A run gives every suite a fresh token on either side, compares what each test did, and holds every difference against
the table of known causes. It knows programs and their output, nothing of what is inside the broker.
"""
