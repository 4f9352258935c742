"""The batch lane: files and batches of OpenAI's API, kept on disk, their lines sent into idle
capacity. A process of its own; it imports the configuration's schema and nothing else of ours."""
