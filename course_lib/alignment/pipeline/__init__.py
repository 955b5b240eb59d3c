"""The pipeline Base → SFT → DPO → +Verifier on a decoder of our own, from one command.

`settings` reads the profile, `stages` has the work of each stage, `state` knows which stages are done, and `running`
runs them. `evaluating` and `results` measure the models, and `report` writes the numbers down.
"""
