"""The wire protocol of Tidegate: frames, their codec, ids and the table of errors. No I/O."""
