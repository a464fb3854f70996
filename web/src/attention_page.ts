// The page of `cloze attention --html`: the explorer on what the program wrote into it. Products, scaled scores and softmax are computed
// here, by the formulas that are shown.

import { make } from './dom'
import { explorer, type Effects, type Look, type Steps } from './explorer'
import { isDark, theme } from './theme'
import { languageTag, otherLanguage, say } from './words'

interface Layer {
  heads: number
  scale: number
  window?: number
  causal?: boolean
  /** Base64 of little-endian f32. // [N, T, D] */
  q: string
  k: string
  /** What the distance of a key adds, from −(T − 1) to T − 1. // [N, 2T − 1] */
  bias?: string
}

interface Text {
  text: string
  tokens: string[]
  layers: Layer[]
  ablation: Effects | null
}

const data = JSON.parse(document.querySelector('#data')!.textContent!) as { model: string; texts: Text[] }

function floats(base64: string) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))
  const view = new DataView(bytes.buffer)
  return Float64Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true))
}

/** softmax(scale · q·kᵀ + bias) over the keys that a query sees. */
function heads(layer: Layer, tokens: number): Steps[] {
  const [q, k, biases] = [floats(layer.q), floats(layer.k), floats(layer.bias ?? '')]
  const d = tokens ? q.length / layer.heads / tokens : 0
  return Array.from({ length: layer.heads }, (_, head) => {
    const rows = (all: Float64Array) => Array.from({ length: tokens }, (_, t) => Array.from(all.subarray((head * tokens + t) * d, (head * tokens + t + 1) * d)))
    const [qs, ks] = [rows(q), rows(k)]
    const products = qs.map((q) => ks.map((k) => k.reduce((sum, x, c) => sum + x * q[c]!, 0)))
    const bias = Array.from(biases.subarray(head * (2 * tokens - 1), (head + 1) * (2 * tokens - 1)))
    const scores = products.map((row, i) => row.map((x, j) => x * layer.scale + (bias[tokens - 1 + j - i] ?? 0)))
    const sees = (i: number, j: number) => (layer.causal ? j <= i : layer.window === undefined || Math.abs(i - j) <= layer.window)
    const weights = scores.map((row, i) => {
      const max = Math.max(...row.filter((_, j) => sees(i, j)))
      const powers = row.map((s, j) => (sees(i, j) ? Math.exp(s - max) : 0))
      const sum = powers.reduce((a, b) => a + b, 0)
      return powers.map((p) => p / sum)
    })
    return { scale: layer.scale, q: qs, k: ks, products, bias, scores, weights }
  })
}

const looks: (Look | undefined)[] = []
function look(at: number): Look {
  const text = data.texts[at]!
  const steps = text.layers.map((layer) => heads(layer, text.tokens.length))
  return (looks[at] ??= { tokens: text.tokens, weights: steps.map((l) => l.map((h) => h.weights)), steps: (l, h) => steps[l]![h]!, effects: text.ablation })
}

const app = document.querySelector('#app')!
let current = 0

function render() {
  document.documentElement.lang = languageTag()
  document.title = `${say('attention')}: ${data.model}`
  const focused = document.activeElement?.id
  const tabs = data.texts.map((text, i) =>
    make('button', { type: 'button', id: `text-${i}`, 'aria-pressed': i === current, click: () => ((current = i), render()) }, text.text),
  )
  const dark = isDark()
  app.replaceChildren(
    make(
      'header',
      {},
      make('h1', {}, say('attention')),
      make('span', { class: 'hint' }, data.model),
      make('span', { class: 'space' }),
      make('button', { type: 'button', id: 'theme', 'aria-pressed': dark, click: () => (theme(dark ? 'light' : 'dark'), render()) }, say('theme')),
      make('button', { type: 'button', id: 'language', lang: languageTag() === 'en' ? 'zh' : 'en', click: () => (otherLanguage(), render()) }, say('language')),
    ),
    make('main', {}, make('nav', { class: 'row', 'aria-label': say('texts') }, ...tabs), explorer(look(current))),
  )
  if (focused) document.getElementById(focused)?.focus()
}

theme()
render()
