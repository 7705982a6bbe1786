"""One typed function a task, for Python; the command line parses, calls one of them and prints.

What they take is said in `ssl_toolkit.tasks.settings`, and read by `load_run_encoder` and `open_images`; what they find
prints as a table (`ssl_toolkit.tasks.tables`).
"""
