"""The HTTP server: routes of OpenAI's API, of lm-evaluation-harness, of xeb/gpt-2, and this program's own."""
