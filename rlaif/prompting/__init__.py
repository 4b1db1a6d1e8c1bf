"""Question templates, chat templates and tokens, and what keeps untrusted text from posing as either."""
