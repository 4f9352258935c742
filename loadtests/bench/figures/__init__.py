"""What is measured: a module a question. May import picker and policies."""
