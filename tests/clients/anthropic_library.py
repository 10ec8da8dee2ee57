"""Anthropic's library: messages, streams, tools, counting, errors."""

import os

import anthropic

client = anthropic.Anthropic()
model = os.environ["MODEL"]
hello = [{"role": "user", "content": "Hello"}]
asked = {"model": model, "max_tokens": 100, "messages": hello}

reply = client.messages.create(**asked, system="Be brief.")
assert reply.content[0].text and reply.stop_reason == "end_turn" and reply.usage.output_tokens > 0, reply
with client.messages.stream(**asked) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == final.content[0].text != "" and final.usage.output_tokens > 0, final
assert client.messages.count_tokens(model=model, messages=hello).input_tokens > 0
print("messages: whole, as a stream, counted")

if os.environ["ENGINE"] == "scripted":
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"name": "weather", "description": "The weather", "input_schema": schema}]
    reply = client.messages.create(**asked, tools=tools)
    calls = [block for block in reply.content if block.type == "tool_use"]
    assert reply.stop_reason == "tool_use" and [call.input["city"] for call in calls] == ["Oslo", "Rome"], reply
    with client.messages.stream(**asked, tools=tools) as stream:
        streamed = stream.get_final_message()
    assert [block.input for block in streamed.content if block.type == "tool_use"] == [call.input for call in calls]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": f"{call.input['city']} 7"} for call in calls]
    messages = [*hello, {"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]
    told = client.messages.create(**{**asked, "messages": messages}, tools=tools)
    assert told.content[0].text == "Oslo 7, Rome 7", told
    print("messages: tools")

for kind, call in [
    (anthropic.AuthenticationError, lambda: anthropic.Anthropic(api_key="sk-wrong").messages.create(**asked)),
    (anthropic.NotFoundError, lambda: client.messages.create(**{**asked, "model": "none"})),
    (anthropic.BadRequestError, lambda: client.messages.create(**{**asked, "messages": "Hello"})),
]:
    try:
        call()
    except kind as error:
        assert error.body["type"] == "error" and error.body["error"]["message"], error.body
    else:
        raise AssertionError(f"no {kind.__name__}")
print("errors: as the library knows them")
