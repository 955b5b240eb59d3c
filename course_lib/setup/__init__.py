"""Set-up: what runs before anything is installed. Plain Python, started as a file, never imported by other rooms."""
