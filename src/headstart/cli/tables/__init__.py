"""The output of the verbs: results as text, and the shapes of --json."""
