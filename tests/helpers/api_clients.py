"""Client code of API users, run by an interpreter that has the packages: python api_clients.py CLIENT ADDRESS.

Prints the client's view of the responses as a JSON object. The server counts: "a" is continued by "bcd...".
"""

import asyncio
import json
import sys


def openai(address: str) -> dict:
    from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

    client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    ask = client.completions.create

    def failure(kind, action):
        try:
            action()
        except kind as error:
            return [error.code, error.param, error.message]
        return None

    stream = list(ask(model="a", prompt="a", max_tokens=3, stream=True, stream_options={"include_usage": True}))
    messages = [{"role": "user", "content": "hi"}]
    chat = client.chat.completions.create(model="a", messages=messages, max_tokens=3, logprobs=True, top_logprobs=2)
    with client.chat.completions.stream(model="a", messages=messages, max_tokens=3) as chat_stream:
        streamed = "".join(event.delta for event in chat_stream if event.type == "content.delta")
    whole = ask(model="a", prompt=["a", "f"], n=2, max_tokens=2, logprobs=1, echo=True, seed=1, extra_body={"top_k": 1})

    async def together() -> list[str]:
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as many:
            jobs = [many.completions.create(model="a", prompt=chr(97 + i), max_tokens=2) for i in range(10)]
            return [answer.choices[0].text for answer in await asyncio.gather(*jobs)]

    return {
        "models": [model.id for model in client.models.list()],
        "model": client.models.retrieve("a").id,
        "texts": [choice.text for choice in whole.choices],
        "logprobs": whole.choices[0].logprobs.model_dump(),
        "stream": "".join(chunk.choices[0].text for chunk in stream if chunk.choices),
        "reasons": [chunk.choices[0].finish_reason for chunk in stream if chunk.choices],
        "usage": stream[-1].usage.completion_tokens,
        "chat": chat.choices[0].message.content,
        "chat_stream": streamed,
        "chat_logprobs": len(chat.choices[0].logprobs.content),
        "together": asyncio.run(together()),
        "ids": ask(model="a", prompt=[[64], [69]], max_tokens=1).choices[1].text,
        "no_model": failure(NotFoundError, lambda: ask(model="gpt-4", prompt="a")),
        "too_long": failure(BadRequestError, lambda: list(ask(model="a", prompt="a" * 65, stream=True))),
        "no_route": failure(NotFoundError, lambda: client.responses.create(model="a", input="hi")),
        "not_loaded": failure(APIError, lambda: ask(model="b", prompt="a")),
    }


def litellm(address: str) -> dict:
    import litellm as library

    options = {"api_base": f"{address}/v1", "api_key": "none", "max_tokens": 3, "num_retries": 0}
    messages = [{"role": "user", "content": "hi"}]
    text = library.text_completion(model="text-completion-openai/a", prompt="a", **options)
    stream = library.text_completion(model="text-completion-openai/a", prompt="a", stream=True, **options)
    chat = library.completion(model="openai/a", messages=messages, top_k=5, extra_body={"min_p": 0.1}, **options)
    chunks = library.completion(model="openai/a", messages=messages, stream=True, **options)
    return {
        "text": text.choices[0].text,
        "stream": "".join(chunk.choices[0].text or "" for chunk in stream),
        "chat": chat.choices[0].message.content,
        "chat_stream": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        "reason": chat.choices[0].finish_reason,
    }


def langchain(address: str) -> dict:
    from langchain_openai import ChatOpenAI, OpenAI

    options = {"base_url": f"{address}/v1", "api_key": "none", "model": "a", "max_tokens": 3, "max_retries": 0}
    chat, text = ChatOpenAI(**options), OpenAI(**options)
    return {
        "chat": chat.invoke([("system", "Be kind."), ("human", "hi")]).content,
        "chat_stream": "".join(chunk.content for chunk in chat.stream("hi")),
        "batch": text.batch(["a", "f"]),
        "several": [
            [generation.text for generation in some] for some in OpenAI(n=2, **options).generate(["a", "f"]).generations
        ],
        "stream": "".join(text.stream("a")),
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
