"""The program `llm` with a model of its file of OpenAI-compatible ones."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    url = os.environ["OPENAI_BASE_URL"]
    model = [{"model_id": "own", "model_name": os.environ["MODEL"], "api_base": url, "api_key_name": "own"}]
    # YAML takes JSON.
    Path(folder, "extra-openai-models.yaml").write_text(json.dumps(model))
    program = Path(sys.executable).with_name("llm")
    ask = [program, "-m", "own", "--key", os.environ["OPENAI_API_KEY"], "Hello"]
    environment = {**os.environ, "LLM_USER_PATH": folder}
    replies = [
        subprocess.run([*ask, *flags], env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        for flags in [[], ["--no-stream"]]
    ]
    assert replies[0] == replies[1] != "", replies
print("llm: whole and as a stream")
