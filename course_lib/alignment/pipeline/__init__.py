"""The pipeline: Base → SFT → DPO → +Verifier on a decoder of our own, from one command.

`settings` reads the profile, `stages` has what each stage does, `state` says which are done, `running` runs them,
`evaluating` and `results` measure, and `report` writes it down.
"""
