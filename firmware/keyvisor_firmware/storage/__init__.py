"""Host storage: what is donated, to whom each page belongs, what lies there, and how pages come and go."""
