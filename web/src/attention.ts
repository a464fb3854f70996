// The attention explorer: all heads at a glance, one head's lines, and one query's way from q·k to weights.

import { post } from './api'
import { draw, make } from './dom'
import { say } from './words'

interface Seen {
  tokens: string[]
  /** by layer, head, query, key */
  weights: number[][][][]
  steps: {
    scale: number
    q: number[][]
    k: number[][]
    products: number[][]
    scores: number[][]
    weights: number[][]
  }
}

const state = { text: '', layer: 0, head: 0, query: 1, only: -1 }
const dark = () => document.documentElement.dataset.theme === 'dark'

export function attentionPage() {
  if (!state.text) state.text = say('sample')
  const input = make('input', { type: 'text', id: 'attention-text' })
  input.value = state.text
  const place = make('div')
  const load = async () => {
    state.text = input.value
    try {
      const { value } = await post<Seen>('/attention', { inputs: state.text, layer: state.layer, head: state.head })
      state.query = Math.min(state.query, value.tokens.length - 1)
      state.only = Math.min(state.only, value.tokens.length - 1)
      show(place, value, load)
    } catch (error) {
      place.replaceChildren(make('p', { class: 'card bad' }, error instanceof Error ? error.message : String(error)))
    }
  }
  const other = () => {
    input.value = input.value === say('sample') ? say('otherSample') : say('sample')
    void load()
  }
  const submit = (event: Event) => {
    event.preventDefault()
    void load()
  }
  void load()
  const row = make('div', { class: 'row' }, make('button', { class: 'main', type: 'submit' }, say('run')), make('button', { type: 'button', click: other }, `${say('sample')} ⇄ ${say('otherSample')}`))
  const form = make('form', { submit }, make('label', { for: 'attention-text' }, say('text')), input, row)
  return make('section', { 'aria-label': say('attention') }, form, place)
}

function show(place: HTMLElement, seen: Seen, load: () => Promise<void>) {
  const weights = seen.weights[state.layer]?.[state.head] ?? []
  place.replaceChildren(
    make('div', { class: 'card' }, make('p', { class: 'hint' }, say('gridHelp')), grid(seen, load)),
    make('div', { class: 'card' }, make('h2', {}, `${say('lines2')}: ${say('layer')} ${state.layer + 1}, ${say('head')} ${state.head + 1}`), make('p', { class: 'hint' }, say('linesHelp')), make('div', { class: 'scroll' }, links(seen, weights, () => show(place, seen, load)))),
    make('div', { class: 'card' }, make('h2', {}, say('steps')), steps(seen, () => show(place, seen, load))),
  )
}

/** Layers down, heads across; each a picture of its weights. */
function grid(seen: Seen, load: () => Promise<void>) {
  const heads = Math.max(...seen.weights.map((layer) => layer.length))
  const box = make('div', { class: 'grid', style: `grid-template-columns: 2rem repeat(${heads}, max-content)` })
  box.append(make('span', { class: 'axis' }))
  for (let head = 0; head < heads; head++) box.append(make('span', { class: 'axis' }, String(head + 1)))
  seen.weights.forEach((layer, l) => {
    box.append(make('span', { class: 'axis' }, String(l + 1)))
    layer.forEach((weights, h) => {
      const canvas = make('canvas', { width: weights.length, height: weights.length, 'aria-hidden': 'true' })
      paint(canvas, weights)
      const choose = () => {
        state.layer = l
        state.head = h
        void load()
      }
      const label = `${say('layer')} ${l + 1}, ${say('head')} ${h + 1}`
      box.append(make('button', { type: 'button', 'aria-label': label, title: label, 'aria-pressed': l === state.layer && h === state.head, click: choose }, canvas))
    })
  })
  return box
}

function paint(canvas: HTMLCanvasElement, weights: number[][]) {
  const context = canvas.getContext('2d')
  if (!context) return
  const [ground, ink] = dark() ? [[13, 17, 23], [121, 192, 255]] : [[255, 255, 255], [5, 80, 174]]
  const image = context.createImageData(weights.length, weights.length)
  weights.flat().forEach((w, i) => {
    const strength = Math.sqrt(w)
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = (ground![c] ?? 0) + strength * ((ink![c] ?? 0) - (ground![c] ?? 0))
    image.data[4 * i + 3] = 255
  })
  context.putImageData(image, 0, 0)
}

/** Tokens twice, and a line for every weight. */
function links(seen: Seen, weights: number[][], again: () => void) {
  const height = 26
  const width = 420
  const y = (i: number) => height * (i + 0.7)
  const picture = draw('svg', { viewBox: `0 0 ${width} ${height * seen.tokens.length + 8}`, width, role: 'group', 'aria-label': say('lines2') })
  weights.forEach((row, i) => {
    if (state.only >= 0 && state.only !== i) return
    row.forEach((w, j) => {
      if (w < 0.02) return
      const line = draw('line', { x1: 125, y1: y(i) - 5, x2: width - 125, y2: y(j) - 5, stroke: 'var(--accent)', 'stroke-width': 0.5 + 4 * w, 'stroke-opacity': Math.min(1, 0.1 + w) })
      line.append(draw('title', {}, `${seen.tokens[i]} → ${seen.tokens[j]}: ${w.toFixed(3)}`))
      picture.append(line)
    })
  })
  seen.tokens.forEach((token, i) => {
    const choose = () => {
      state.only = state.only === i ? -1 : i
      if (state.only >= 0) state.query = i
      again()
    }
    const key = (event: Event) => {
      if ((event as KeyboardEvent).key === 'Enter' || (event as KeyboardEvent).key === ' ') {
        event.preventDefault()
        choose()
      }
    }
    const left = draw('text', { x: 120, y: y(i), 'text-anchor': 'end', role: 'button', tabindex: 0, 'aria-pressed': state.only === i, 'font-weight': state.only === i ? 700 : 400, style: 'cursor: pointer', click: choose, keydown: key }, token)
    const weight = state.only >= 0 ? `  ${(weights[state.only]?.[i] ?? 0).toFixed(3)}` : ''
    picture.append(left, draw('text', { x: width - 120, y: y(i) }, token, draw('tspan', { class: 'faint' }, weight)))
  })
  return picture
}

const numbers = (row: number[], most = 12) => row.slice(0, most).map((x) => x.toFixed(3)).join('  ') + (row.length > most ? '  …' : '')

/** The formula beside the numbers, for one query. */
function steps(seen: Seen, again: () => void) {
  const { steps } = seen
  const i = state.query
  const select = make('select', {
    'aria-label': say('query'),
    change: (event) => {
      state.query = Number((event.target as HTMLSelectElement).value)
      again()
    },
  })
  seen.tokens.forEach((token, t) => select.append(make('option', { value: t, selected: t === i }, `${t}: ${token}`)))
  const table = make('table', {}, make('tr', {}, ...[say('key'), 'k', say('product'), say('score'), say('weight')].map((h) => make('th', { scope: 'col' }, h))))
  seen.tokens.forEach((token, j) => {
    const cells = [numbers(steps.k[j] ?? [], 4), steps.products[i]?.[j]?.toFixed(3), steps.scores[i]?.[j]?.toFixed(3), steps.weights[i]?.[j]?.toFixed(4)]
    table.append(make('tr', { class: j === i ? 'chosen' : '' }, make('th', { scope: 'row' }, token), ...cells.map((c) => make('td', {}, c ?? ''))))
  })
  const sum = (steps.weights[i] ?? []).reduce((a, b) => a + b, 0)
  table.append(make('tr', {}, make('th', { scope: 'row' }, 'Σ'), make('td'), make('td'), make('td'), make('td', {}, sum.toFixed(4))))
  const line = (text: string, formula: string) => make('p', {}, text, ' ', make('span', { class: 'formula' }, formula))
  return make(
    'div',
    {},
    make('div', { class: 'row' }, select),
    line(say('stepQ'), `q = x W_q + b_q`),
    make('p', { class: 'scroll number', tabindex: 0 }, numbers(steps.q[i] ?? [])),
    line(say('stepK'), 'q·k = Σ q_d k_d'),
    line(say('stepScale', steps.scale.toFixed(4)), 's = q·k / √D'),
    line(say('stepSoftmax'), 'p_j = exp(s_j) / Σ exp(s_i)'),
    make('div', { class: 'scroll', tabindex: 0 }, table),
  )
}
