"""The claims of docs/speed.md, measured here and now: `make bench`, `make bench ARGS=--json`."""
