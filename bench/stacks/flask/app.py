"""The visit counter of the exercise in Flask: one INCR for each visit, over pooled connections."""
import os

import redis
from flask import Flask

app = Flask(__name__)
cache = redis.Redis(host=os.environ["REDIS_HOST"], port=int(os.environ.get("REDIS_PORT", "6379")))


@app.route("/count")
def count():
    return f"{cache.incr('visits')}\n", {"Content-Type": "text/plain"}
