"""What the verbs print: results as text, and the shapes that --json promises."""
