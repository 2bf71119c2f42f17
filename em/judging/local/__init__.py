"""Judges that run on this machine: proxies on the base model, and a chat model in a vLLM engine."""
