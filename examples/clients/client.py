"""Embeddings through OpenAI's client, labels through plain HTTP. pip install openai; cloze serve --model DIR"""
import json
import sys
import urllib.request

from openai import OpenAI

at = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000"

client = OpenAI(base_url=f"{at}/v1", api_key="the server's key, or anything where it has none")
answer = client.embeddings.create(model="any", input=["The cat sat on the mat", "猫坐在垫子上"])
a, b = (d.embedding for d in answer.data)
print("components:", len(a), "cosine:", sum(x * y for x, y in zip(a, b)), "tokens:", answer.usage.total_tokens)


def post(path, body):
    request = urllib.request.Request(at + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


info = json.load(urllib.request.urlopen(at + "/info"))
if "/predict" in info["routes"]:
    print(post("/predict", {"inputs": "I like this film very much"}))
if "/fill-mask" in info["routes"]:
    print(post("/fill-mask", {"text": f"The cat {info['mask_token']} on the mat."}))
