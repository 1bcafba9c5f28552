"""`tidegate chat`: a conversation in a terminal or through a pipe, on the Python client."""
