"""Models: one decoder that is both GPT-2 and Llama (`config`, `decoder`), its weights in and out of the Hugging Face
layout (`huggingface`), and where pretrained weights come from (`pretrained`)."""
