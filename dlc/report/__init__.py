"""Reports made from a manifest: HTML, Markdown, JUnit. Nothing is measured here."""
