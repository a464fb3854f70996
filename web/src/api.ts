// The server's routes, as the page uses them.

export interface Info {
  model_id: string
  routes: string[]
  models: string[]
  mask_token: string | null
  num_hidden_layers: number
  num_attention_heads: number
}

export interface Timed<T> {
  value: T
  /** Milliseconds: around the request, and what the server says of itself. */
  round: number
  total: string
  queue: string
  inference: string
  tokens: string
}

let model = ''
const watching: (() => void)[] = []
/** What is to be forgotten when another model is chosen. */
export const onModel = (forget: () => void) => void watching.push(forget)
export function setModel(name: string) {
  if (name !== model) for (const forget of watching) forget()
  model = name
}
const address = (path: string) => `.${path}${path.includes('?') ? '&' : '?'}model=${encodeURIComponent(model)}`

async function read<T>(answer: Response): Promise<T> {
  const text = await answer.text()
  let value
  try {
    value = JSON.parse(text)
  } catch {
    throw new Error(`${answer.status}: ${text.slice(0, 200)}`)
  }
  if (!answer.ok) throw new Error(typeof value.error === 'string' ? value.error : JSON.stringify(value))
  return value as T
}

export const get = async <T>(path: string) => read<T>(await fetch(`.${path}`))
export const info = async () => read<Info>(await fetch(model ? address('/info') : './info'))

export async function post<T>(path: string, body: unknown): Promise<Timed<T>> {
  const begin = performance.now()
  const answer = await fetch(address(path), {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'content-type': 'application/json' },
  })
  const value = await read<T>(answer)
  const header = (name: string) => answer.headers.get(name) ?? '–'
  return {
    value,
    round: performance.now() - begin,
    total: header('x-total-time'),
    queue: header('x-queue-time'),
    inference: header('x-inference-time'),
    tokens: header('x-compute-tokens'),
  }
}
