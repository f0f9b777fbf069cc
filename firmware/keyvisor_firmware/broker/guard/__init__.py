"""The key-extraction guard, step 5 of the filter (architecture.md, section 5; decision 16).

No sequence of calls brings a sensitive key out of its partition in clear.
"""
