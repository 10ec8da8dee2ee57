"""OpenAI's library: chat, streams, tools, structured output, Responses, embeddings, audio, images, moderation, errors."""

import base64
import io
import json
import os

import openai
from pydantic import BaseModel

client = openai.OpenAI()
model = os.environ["MODEL"]
scripted = os.environ["ENGINE"] == "scripted"
hello = [{"role": "user", "content": "Hello"}]
parameters = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


class Weather(BaseModel):
    city: str
    degrees: int


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


reply = client.chat.completions.create(model=model, messages=hello)
assert reply.choices[0].message.content and reply.usage.completion_tokens > 0, reply
text, usage = "", None
for chunk in client.chat.completions.create(
    model=model, messages=hello, stream=True, stream_options={"include_usage": True}
):
    text += "".join(choice.delta.content or "" for choice in chunk.choices)
    usage = chunk.usage or usage
assert text == reply.choices[0].message.content and usage.completion_tokens > 0, (text, usage)
print("chat: whole and as a stream")

answer = client.responses.create(model=model, input="Hello", instructions="Be brief.")
assert answer.output_text and answer.status == "completed" and answer.usage.output_tokens > 0, answer
with client.responses.stream(model=model, input="Hello") as stream:
    pieces = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert pieces == stream.get_final_response().output_text != "", pieces
print("responses: whole and as a stream")

if scripted:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    asked = client.chat.completions.create(model=model, messages=hello, tools=tools).choices[0]
    assert asked.finish_reason == "tool_calls", asked
    cities = [json.loads(call.function.arguments)["city"] for call in asked.message.tool_calls]
    assert cities == ["Oslo", "Rome"], cities
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{city} 7"}
        for call, city in zip(asked.message.tool_calls, cities)
    ]
    told = client.chat.completions.create(model=model, messages=[*hello, asked.message, *results], tools=tools)
    assert told.choices[0].message.content == "Oslo 7, Rome 7", told
    parsed = client.chat.completions.parse(model=model, messages=hello, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(city="Oslo", degrees=7), parsed
    print("chat: tools and structured output")

    tools = [{"type": "function", "name": "weather", "parameters": parameters, "strict": True}]
    asked = client.responses.create(model=model, input=hello, tools=tools)
    calls = [item for item in asked.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Oslo", "Rome"], asked
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{json.loads(call.arguments)['city']} 7"}
        for call in calls
    ]
    told = client.responses.create(model=model, input=[*hello, *asked.output, *results], tools=tools)
    assert told.output_text == "Oslo 7, Rome 7", told
    parsed = client.responses.parse(model=model, input="Hello", text_format=Weather)
    assert parsed.output_parsed == Weather(city="Oslo", degrees=7), parsed
    print("responses: tools and structured output")

vectors = client.embeddings.create(model=model, input=["a", "b"])
assert len(vectors.data) == 2 and isinstance(vectors.data[0].embedding[0], float), vectors
speech = client.audio.speech.create(model=model, voice="alloy", input="Hello", response_format="wav").read()
assert speech.startswith(b"RIFF"), speech[:20]
heard = client.audio.transcriptions.create(model=model, file=("a.wav", io.BytesIO(speech)))
assert heard.text, heard
picture = client.images.generate(model=model, prompt="a cat").data[0].b64_json
assert base64.b64decode(picture).startswith(b"\x89PNG"), picture
edited = client.images.edit(model=model, prompt="a hat", image=io.BytesIO(base64.b64decode(picture)))
assert edited.data[0].b64_json, edited
assert client.moderations.create(model=model, input="Hello").results[0].flagged is False
assert model in [listed.id for listed in client.models.list()]
print("embeddings, audio, images, moderation, models")

wrong = openai.OpenAI(api_key="sk-wrong")
assert refused(openai.AuthenticationError, lambda: wrong.models.list()).code == "invalid_api_key"
error = refused(openai.NotFoundError, lambda: client.chat.completions.create(model="none", messages=hello))
assert error.code == "model_not_found", error
refused(openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=hello, n=129))
refused(openai.BadRequestError, lambda: client.responses.create(model=model, input="a", previous_response_id="resp_1"))
refused(openai.NotFoundError, lambda: client.files.list())
print("errors: as the library knows them")
