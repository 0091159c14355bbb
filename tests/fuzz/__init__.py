"""Every reader of files and replies, with input that was broken on purpose.

`python -m tests.fuzz --seconds 300` is what CI runs; `corpus/READER/` holds inputs that once went wrong.
"""
