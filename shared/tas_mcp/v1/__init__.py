"""The gRPC contract, generated from `proto/tas_mcp/v1/mcp.proto` by `make proto`. Do not edit."""
