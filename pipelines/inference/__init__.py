"""The one generation engine: golden answers, evaluation samples and serving all use it.

with Engine.load(folder) as engine:
    engine.generate("Return the", SamplingParams(max_tokens=32)).text
    async for chunk in engine.submit(engine.encode("Return the"), SamplingParams(max_tokens=32)): ...
"""
