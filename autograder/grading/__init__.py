"""What an instructor's commands do with a class: one sub-room for each purpose, from hand-ins to a report.

`workers` starts processes and listens to them, `collect` finds what was handed in, `gradebook` is what nbgrader's
process runs, `report` says how the class did, `run` grades. `converters` and `feedback` are addresses that instructors'
copies of nbgrader_config.py know.
"""
