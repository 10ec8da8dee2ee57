"""LangChain's library for OpenAI: chat, streams, tools, structured output, embeddings."""

import os

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

name = os.environ["MODEL"]
model = ChatOpenAI(model=name)


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city} 7"


class Weather(BaseModel):
    """The weather."""

    city: str
    degrees: int


reply = model.invoke("Hello")
assert reply.content and reply.usage_metadata["output_tokens"] > 0, reply
assert "".join(chunk.content for chunk in model.stream("Hello")) == reply.content
print("chat: whole and as a stream")

for chat in [model, ChatOpenAI(model=name, use_responses_api=True)] if os.environ["ENGINE"] == "scripted" else []:
    calls = chat.bind_tools([weather]).invoke("Hello")
    assert [call["args"]["city"] for call in calls.tool_calls] == ["Oslo", "Rome"], calls
    results = [weather.invoke(call) for call in calls.tool_calls]
    told = chat.bind_tools([weather]).invoke([("user", "Hello"), calls, *results])
    assert told.text == "Oslo 7, Rome 7", told
    assert chat.with_structured_output(Weather).invoke("Hello") == Weather(city="Oslo", degrees=7)
    print("chat: tools and structured output")

# By default it counts tokens itself, with a table from the network.
vectors = OpenAIEmbeddings(model=name, check_embedding_ctx_length=False).embed_documents(["a", "b"])
assert len(vectors) == 2 and isinstance(vectors[0][0], float), vectors
print("embeddings")
