"""OpenAI's agents, which speak Responses and nothing else by default."""

import asyncio
import os

from agents import Agent, Runner, function_tool, set_tracing_disabled

set_tracing_disabled(True)
scripted = os.environ["ENGINE"] == "scripted"


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city} 7"


tools = [weather] if scripted else []
agent = Agent(name="Helper", instructions="Be brief.", model=os.environ["MODEL"], tools=tools)


async def streamed():
    run = Runner.run_streamed(agent, "Hello")
    async for _ in run.stream_events():
        pass
    return run.final_output


async def main():
    result = await Runner.run(agent, "Hello")
    assert result.final_output == ("Oslo 7, Rome 7" if scripted else result.final_output) != "", result
    assert await streamed() == result.final_output
    again = await Runner.run(agent, [*result.to_input_list(), {"role": "user", "content": "Again"}])
    assert again.final_output, again


asyncio.run(main())
print("agents: tools, streams, a second turn")
