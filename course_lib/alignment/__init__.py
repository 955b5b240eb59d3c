"""Alignment: instructions (`sft`), preferences (`dpo`, `pairs`, `reference`) and verifiable rewards (`grpo`)."""
