"""HTTP to an API in OpenAI's form: client, rate limits, prices. The door is client.Api."""
