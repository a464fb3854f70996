// node examples/clients/client.mjs [http://127.0.0.1:3000]
const at = process.argv[2] ?? 'http://127.0.0.1:3000'

async function post(path, body) {
  for (;;) {
    const answer = await fetch(at + path, { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' } })
    if (answer.status === 429) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * Number(answer.headers.get('retry-after') ?? 1)))
      continue
    }
    const value = await answer.json()
    if (!answer.ok) throw new Error(value.error)
    return value
  }
}

const [source, ...others] = ['The cat sat on the mat', 'A cat sits on a rug', 'It will rain tomorrow']
const cosines = await post('/similarity', { inputs: { source_sentence: source, sentences: others } })
others.forEach((text, i) => console.log(cosines[i].toFixed(3), text))
