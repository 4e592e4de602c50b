"""The command line: one file a verb. Parses, prints, sets exit codes; no logic."""
