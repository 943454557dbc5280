"""The decision service over gRPC, without Ray."""
