"""Messages to tokens and back. The door for rendering is render.ChatTokenizer, for training rows encode.encode_all."""
