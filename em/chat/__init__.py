"""Messages to tokens. The doors: render.ChatTokenizer for rendering, encode.encode_all for training rows."""
