"""Which models there are (data), where their files lie, what a file is (by header)."""
