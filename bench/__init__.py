"""`make bench`: the broker beside `p11-kit server` and beside SoftHSM in the client's own process, in one run.

The clients are C, the peers are the real programs, a section measures one question, and the page is made of tables
that are made of figures. It knows nothing of what is inside the broker, but for `filter_cost`.
"""
