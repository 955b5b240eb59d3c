"""Runs Python where it can do no harm: in bubblewrap, with limits, and with nothing left of it afterwards.

`limits` says how much it may use, `bubblewrap` what it can see, `process` starts it and ends it, `usage` counts.
`kernel` is a notebook's kernel in it, which `start_kernel` starts there.
"""
