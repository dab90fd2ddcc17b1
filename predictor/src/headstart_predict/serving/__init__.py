"""The HTTP service of exported models: needs the extra `serve`, and neither torch nor headstart.

settings    limits, and what else the command line says
hosting     the models that answer, loaded, verified and swapped
desk        the images of all requests: decoded, batched, answered, on one thread for each core
bodies      the pictures in a request
problems    errors as RFC 9457 describes them
gate        what every request passes: limits, token, headers, log
app         the addresses, and what they say of themselves
connections deadlines and limits of a connection, before there is a request
decisions   the log of answers, in SQLite
metrics     numbers for Prometheus
server      processes and signals
"""
