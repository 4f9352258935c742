"""What a request asks the model to read: prompt forms and their block hashes; pure functions."""
