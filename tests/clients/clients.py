"""What other people's clients make of our answers. Called by run.sh with the server's address."""
import math
import sys

import openai
from huggingface_hub import InferenceClient

at = sys.argv[1]
texts = ["the cat sat on the mat", "猫坐在垫子上", "a dog"]

# OpenAI: base64 by default, floats when asked; errors are its own classes.
client = openai.OpenAI(base_url=f"{at}/v1", api_key="none", max_retries=0)
coded = client.embeddings.create(model="words", input=texts)
plain = client.embeddings.create(model="words", input=texts, encoding_format="float")
assert [d.index for d in coded.data] == [0, 1, 2] and coded.usage.total_tokens == plain.usage.total_tokens > 0
for a, b in zip(coded.data, plain.data):
    # the client reads the text of a float as f64, the bytes as f32
    assert len(a.embedding) == len(b.embedding) and all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(a.embedding, b.embedding))
    assert math.isclose(sum(x * x for x in a.embedding), 1.0, rel_tol=1e-5)
assert len(client.embeddings.create(model="words", input="a", dimensions=5).data[0].embedding) == 5
assert [m.id for m in client.models.list()] == ["words", "labels"]
for broken, error in [(dict(model="nobody", input="a"), openai.NotFoundError), (dict(model="words", input=[]), openai.BadRequestError)]:
    try:
        client.embeddings.create(**broken)
        raise SystemExit(f"{broken} was answered")
    except error as e:
        assert e.body["message"] and e.body["type"], e.body
print("openai:", openai.__version__, "well")

# Hugging Face's client, which calls text-embeddings-inference.
hub = InferenceClient(base_url=at)
vectors = hub.feature_extraction(texts[0])
assert vectors.shape[-1] == len(plain.data[0].embedding), vectors.shape
assert all(math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-7) for x, y in zip(vectors.reshape(-1).tolist(), plain.data[0].embedding))
print("huggingface_hub: well")
