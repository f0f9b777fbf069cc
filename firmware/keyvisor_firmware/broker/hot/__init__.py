"""The compiled half of the request path, and what Python and it share. Without it everything goes the Python way."""
