"""A LoRA adapter of Qwen2.5-Coder-0.5B-Instruct, trained by this repository on Spider."""
