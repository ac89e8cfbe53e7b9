"""The visit counter of the exercise in FastAPI: one INCR for each visit, over pooled asynchronous connections."""
import os

import redis.asyncio
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()
cache = redis.asyncio.Redis(host=os.environ["REDIS_HOST"], port=int(os.environ.get("REDIS_PORT", "6379")))


@app.get("/count", response_class=PlainTextResponse)
async def count():
    return f"{await cache.incr('visits')}\n"
