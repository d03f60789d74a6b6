"""One dial: from a budget of time, tokens or FLOPs to all settings of a run; see `docs/dial.md`."""
