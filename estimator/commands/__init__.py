"""The commands of main.py on one JSON file: train, evaluate, check, dry_run. Generating text is in `generation`."""
