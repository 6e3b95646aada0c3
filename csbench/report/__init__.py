"""Records to tables: Markdown, LaTeX, text, CSV, JSON, HTML."""
