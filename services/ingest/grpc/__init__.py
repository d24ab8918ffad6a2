"""The gRPC face of ingest: ``mcp.v1.MCPService`` as ``proto/tas_mcp/v1/mcp.proto`` says."""

import os

# gRPC takes these from nowhere but the environment, when it is first imported; a value that is there already goes before.
# The one suite of TLS 1.2 that is offered is one that nobody can use, as both sides would have to know a key before: 1.3 is left,
# whose suites this does not touch.
os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-AES128-CBC-SHA")
# It writes a line for each handshake that fails: whoever likes could fill the disk.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
