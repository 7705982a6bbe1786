"""One typed function a task, for Python; the command line parses, calls one of them and prints."""
