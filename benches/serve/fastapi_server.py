"""The usual Python server, to compare with: python fastapi_server.py MODEL PORT. Requests that wait are encoded in one call."""
import asyncio
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu")
app = FastAPI()
waiting: asyncio.Queue = asyncio.Queue()


class Request(BaseModel):
    inputs: str | list[str]
    truncate: bool = True


async def worker():
    while True:
        batch = [await waiting.get()]
        while not waiting.empty() and len(batch) < 64:
            batch.append(waiting.get_nowait())
        flat = [text for texts, _ in batch for text in texts]
        vectors = await asyncio.to_thread(model.encode, flat, batch_size=64, normalize_embeddings=True)
        at = 0
        for texts, future in batch:
            if not future.cancelled():
                future.set_result(vectors[at : at + len(texts)].tolist())
            at += len(texts)


@app.on_event("startup")
async def start():
    app.state.worker = asyncio.create_task(worker())


@app.post("/embed")
async def embed(request: Request):
    texts = [request.inputs] if isinstance(request.inputs, str) else request.inputs
    future = asyncio.get_running_loop().create_future()
    await waiting.put((texts, future))
    return await future


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
