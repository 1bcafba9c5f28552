"""`/mcp`: the gateway as a server for any client of the Model Context Protocol (docs/mcp.md)."""
