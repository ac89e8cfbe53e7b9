"""FastAPI on uvicorn with its fast loop and parser, and the asynchronous client of Redis with its fast parser."""
import os

import redis.asyncio
import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()
cache = redis.asyncio.Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))


@app.get("/count", response_class=PlainTextResponse)
async def count():
    return f"{await cache.incr('visits')}\n"


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), loop="uvloop", http="httptools",
                access_log=False, log_level="warning")
