"""Alignment: from random weights (`pretrain`) to instructions (`sft`), preferences (`dpo`, `pairs`, `reference`),
verifiable rewards (`grpo`) and a verifier (`verifier`, `reranking`); all stages in one run (`pipeline`)."""
