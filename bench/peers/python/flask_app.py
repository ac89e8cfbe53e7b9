"""The usual tutorial: the development server of Flask, one INCR for each visit."""
import os

import redis
from flask import Flask

app = Flask(__name__)
cache = redis.Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))


@app.route("/count")
def count():
    return f"{cache.incr('visits')}\n"


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ["PORT"]))
