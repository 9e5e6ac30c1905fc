"""The matrix of failures: two real daemons, what is done to them row by row, and what must be seen of it.

`rows` is the matrix; `stage` holds the two hosts, with the verbs that the rows use; `wires` what lies between them;
`seen` reads the journals and routes.json; `play` plays one row and judges it. `python -m matrix` prints the table.
"""
