"""The gRPC face of ingest: ``mcp.v1.MCPService`` as ``proto/tas_mcp/v1/mcp.proto`` says."""
