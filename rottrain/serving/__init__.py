"""A checkpoint behind an OpenAI-compatible HTTP interface. Needs the extra `serve`: FastAPI and uvicorn."""
