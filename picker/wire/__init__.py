"""Messages of ``proto/``, generated when the project is installed. Imports nothing of ours."""
