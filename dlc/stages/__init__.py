"""The stages of a compile, in order: variants are built, shipped to disk, measured (evidence), judged (record)."""
