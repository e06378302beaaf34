"""rl4nlu: make a decoder language model good at natural-language understanding."""
