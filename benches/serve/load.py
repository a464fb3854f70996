"""Load on a server that answers /embed: python load.py URL [--mix short|lognormal] [--clients 64] [--seconds 30]"""
import argparse
import asyncio
import collections
import json
import random
import time

import aiohttp

WORDS = "the a old young sailor farmer child dog cat house boat river walked slept saw found near under with and quietly again".split()


def texts(mix, count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        words = 8 if mix == "short" else max(2, min(380, round(draw.lognormvariate(3.4, 0.9))))
        yield " ".join(draw.choice(WORDS) for _ in range(words))


async def client(session, url, bodies, deadline, seen):
    while time.perf_counter() < deadline:
        begin = time.perf_counter()
        async with session.post(url, data=next(bodies), headers={"content-type": "application/json"}) as answer:
            await answer.read()
            seen["statuses"][answer.status] += 1
            if answer.status == 200:
                seen["times"].append(time.perf_counter() - begin)
                seen["tokens"] += int(answer.headers.get("x-compute-tokens", 0))
            elif answer.status == 429:
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)) * random.random())


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--mix", choices=["short", "lognormal"], default="lognormal")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--warmup", type=float, default=3)
    args = parser.parse_args()
    if not 1 <= args.clients <= 256 or not 0 < args.seconds <= 600:
        parser.error("1 to 256 clients, at most 600 seconds")
    prepared = [json.dumps({"inputs": text, "truncate": True}) for text in texts(args.mix, 4096, 7)]
    url = args.url.rstrip("/") + "/embed"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=args.clients)) as session:
        for seconds in (args.warmup, args.seconds):
            seen = {"times": [], "tokens": 0, "statuses": collections.Counter()}
            begin = time.perf_counter()
            shared = iter(lambda: random.choice(prepared), None)
            await asyncio.gather(*(client(session, url, shared, begin + seconds, seen) for _ in range(args.clients)))
            took = time.perf_counter() - begin
    times = sorted(seen["times"])
    at = lambda share: 1000 * times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")
    print(json.dumps({
        "url": args.url, "mix": args.mix, "clients": args.clients, "requests_per_second": len(times) / took,
        "tokens_per_second": seen["tokens"] / took, "p50_ms": at(0.5), "p99_ms": at(0.99), "statuses": dict(seen["statuses"]),
    }))


asyncio.run(main())
