// The drawings of attention that the playground and the page of `cloze attention --html` share: all heads at a glance (model view), one
// head's lines (head view), one query's way from q·k to its weights in the model's own numbers (neuron view), and what the answer loses
// without each head.

import { bars, draw, make } from './dom'
import { say } from './words'
import { isDark } from './theme'

/** One head, step by step. */
export interface Steps {
  scale: number
  q: number[][]
  k: number[][]
  products: number[][]
  /** What the distance of a key adds to its score, from −(T − 1) to T − 1; empty or absent where the model has no such bias. */
  bias?: number[]
  scores: number[][]
  weights: number[][]
}

/** What the model answers with all heads and without some. */
export interface Effects {
  task: string
  measure: 'loss' | 'probability' | 'number' | 'cosine'
  whole: number
  answer: unknown
  off: [number, number][]
  value: number | null
  answer_without: unknown
  /** The measure without each head alone, by layer and head; empty where it was not tried. */
  each: number[][]
}

/** What is looked at. */
export interface Look {
  tokens: string[]
  /** by layer, head, query, key */
  weights: number[][][][]
  steps: (layer: number, head: number) => Steps | Promise<Steps>
  effects?: Effects | null
  /** Whether a head is off, and what switches it; absent where the model is not at hand. */
  isOff?: (layer: number, head: number) => boolean
  toggle?: (layer: number, head: number) => void
  clear?: () => void
  tryAll?: () => void
  /** A part was redrawn. */
  drawn?: () => void
}

/** What the reader has chosen; kept when the text changes. */
export const chosen = { layer: 0, head: 0, query: 1, key: 1, only: -1, overlay: false }

const place = (layer: number, head: number) => `${layer}.${head}`
const short = (x: number) => (Math.abs(x) >= 1000 ? x.toFixed(0) : x.toFixed(Math.abs(x) < 10 ? 3 : 2))

/** How much worse the answer is without a head; see `Measure::harm`. */
function harm(effects: Effects, value: number) {
  const change = value - effects.whole
  return effects.measure === 'loss' ? change : effects.measure === 'number' ? Math.abs(change) : -change
}

/** The explorer of one text. */
export function explorer(look: Look) {
  const root = make('div', { class: 'explorer' })
  let turn = 0
  const render = async () => {
    const mine = ++turn
    const heads = look.weights[chosen.layer]?.length ?? 0
    if (chosen.layer >= look.weights.length) chosen.layer = 0
    if (chosen.head >= heads) chosen.head = 0
    const last = look.tokens.length - 1
    chosen.query = Math.min(chosen.query, last)
    chosen.key = Math.min(chosen.key, last)
    if (chosen.only > last) chosen.only = -1
    const steps = await look.steps(chosen.layer, chosen.head)
    if (mine !== turn) return
    // What is drawn anew keeps the focus where the reader had it.
    const focused = root.contains(document.activeElement) ? document.activeElement?.id : ''
    root.replaceChildren(modelView(look, redraw), headView(look, redraw), neuronView(look, steps, redraw), ...effectsView(look, redraw))
    if (focused) document.getElementById(focused)?.focus()
    look.drawn?.()
  }
  const redraw = () => void render()
  redraw()
  return root
}

/** Layers down, heads across; each a picture of its weights. */
function modelView(look: Look, redraw: () => void) {
  const heads = Math.max(...look.weights.map((layer) => layer.length))
  const box = make('div', { class: 'grid', style: `grid-template-columns: 1.4rem repeat(${heads}, max-content)` })
  box.append(make('span', { class: 'axis' }))
  for (let head = 0; head < heads; head++) box.append(make('span', { class: 'axis' }, String(head)))
  const most = look.effects ? Math.max(1e-9, ...look.effects.each.flat().map((v) => Math.abs(harm(look.effects!, v)))) : 1
  look.weights.forEach((layer, l) => {
    box.append(make('span', { class: 'axis' }, String(l)))
    layer.forEach((weights, h) => {
      const canvas = make('canvas', { width: weights.length, height: weights.length, 'aria-hidden': 'true' })
      paint(canvas, weights)
      const effect = look.effects?.each[l]?.[h]
      const share = effect === undefined ? 0 : harm(look.effects!, effect) / most
      const mark = effect !== undefined && make('span', { class: share < 0 ? 'effect better' : 'effect', style: `opacity: ${Math.abs(share).toFixed(3)}` })
      const off = look.isOff?.(l, h) ?? false
      const label = `${say('layer')} ${l}, ${say('head')} ${h}${off ? `, ${say('isOff')}` : ''}`
      const choose = () => {
        chosen.layer = l
        chosen.head = h
        redraw()
      }
      const move = (event: Event) => {
        const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[(event as KeyboardEvent).key]
        const next = step && document.getElementById(`grid-${l + step[0]!}-${h + step[1]!}`)
        if (!next) return
        event.preventDefault()
        next.focus()
      }
      const pressed = l === chosen.layer && h === chosen.head
      box.append(make('button', { type: 'button', id: `grid-${l}-${h}`, class: off ? 'off' : '', 'aria-label': label, title: label, 'aria-pressed': pressed, click: choose, keydown: move }, canvas, mark))
    })
  })
  const hint = look.effects?.each.length ? `${say('gridHelp')} ${say('gridEffects')}` : say('gridHelp')
  return make('div', { class: 'card' }, make('h2', {}, say('modelView')), make('p', { class: 'hint' }, hint), make('div', { class: 'scroll', tabindex: 0, role: 'group', 'aria-label': say('modelView') }, box))
}

function paint(canvas: HTMLCanvasElement, weights: number[][]) {
  const context = canvas.getContext('2d')
  if (!context) return
  const [ground, ink] = isDark() ? [[13, 17, 23], [121, 192, 255]] : [[255, 255, 255], [5, 80, 174]]
  const image = context.createImageData(weights.length, weights.length)
  weights.flat().forEach((w, i) => {
    const strength = Math.sqrt(w)
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = (ground![c] ?? 0) + strength * ((ink![c] ?? 0) - (ground![c] ?? 0))
    image.data[4 * i + 3] = 255
  })
  context.putImageData(image, 0, 0)
}

/** A choice among numbers or tokens. */
function choice(id: string, label: string, names: string[], at: number, take: (i: number) => void) {
  const select = make('select', { id, change: (event) => take(Number((event.target as HTMLSelectElement).value)) })
  names.forEach((name, i) => select.append(make('option', { value: i, selected: i === at }, name)))
  return make('span', { class: 'choice' }, make('label', { for: id }, label), select)
}

const numbered = (n: number) => Array.from({ length: n }, (_, i) => String(i))

/** The choice of layer and head, and its switch where the model is at hand. */
function headChoice(look: Look, redraw: () => void) {
  const heads = look.weights[chosen.layer]?.length ?? 0
  const take = (key: 'layer' | 'head') => (i: number) => {
    chosen[key] = i
    redraw()
  }
  const off = look.isOff?.(chosen.layer, chosen.head) ?? false
  return [
    choice('choose-layer', say('layer'), numbered(look.weights.length), chosen.layer, take('layer')),
    choice('choose-head', say('head'), numbered(heads), chosen.head, take('head')),
    look.toggle && make('button', { type: 'button', id: 'toggle-head', 'aria-pressed': off, click: () => look.toggle?.(chosen.layer, chosen.head) }, say(off ? 'switchOn' : 'switchOff')),
  ]
}

/** Tokens twice, and a line for every weight. */
function headView(look: Look, redraw: () => void) {
  const all = chosen.overlay
  const overlay = make('input', { type: 'checkbox', id: 'overlay', change: () => ((chosen.overlay = !chosen.overlay), redraw()) })
  overlay.checked = all
  const title = all ? `${say('headView')}: ${say('layer')} ${chosen.layer}` : `${say('headView')}: ${say('layer')} ${chosen.layer}, ${say('head')} ${chosen.head}`
  const label = make('label', { class: 'inline', for: 'overlay' }, overlay, ' ', say('overlay'))
  return make(
    'div',
    { class: 'card' },
    make('h2', {}, title),
    make('div', { class: 'row' }, ...headChoice(look, redraw), label),
    make('p', { class: 'hint' }, say('linesHelp')),
    make('div', { class: 'scroll' }, lines(look, all, redraw)),
  )
}

const hue = (head: number, heads: number) => `hsl(${Math.round((360 * head) / heads + 210) % 360} 75% ${isDark() ? 65 : 42}%)`

function lines(look: Look, all: boolean, redraw: () => void) {
  const layer = look.weights[chosen.layer] ?? []
  const shown = layer.map((weights, head) => ({ weights, head })).filter((h) => all || h.head === chosen.head)
  const [height, width, side] = [26, 460, 130]
  const y = (i: number) => height * (i + 0.7)
  const picture = draw('svg', { viewBox: `0 0 ${width} ${height * look.tokens.length + 8}`, width, role: 'group', 'aria-label': say('headView') })
  const rows = look.tokens.map((_, i) => draw('g', { class: 'links' }, ...(chosen.only < 0 || chosen.only === i ? shown.flatMap(({ weights, head }) => row(look, weights[i] ?? [], i, all ? hue(head, layer.length) : 'var(--accent)', { y, width, side })) : [])))
  picture.append(...rows)
  const point = (at: number) => rows.forEach((g, i) => (g.style.opacity = at < 0 || at === i ? '' : '0.08'))
  look.tokens.forEach((token, i) => {
    const choose = () => {
      chosen.only = chosen.only === i ? -1 : i
      if (chosen.only >= 0) chosen.query = i
      redraw()
    }
    const key = (event: Event) => {
      const name = (event as KeyboardEvent).key
      const step = { ArrowUp: -1, ArrowDown: 1 }[name]
      if (step) document.getElementById(`token-${i + step}`)?.focus()
      else if (name !== 'Enter' && name !== ' ') return
      else choose()
      event.preventDefault()
    }
    const pressed = chosen.only === i
    const own = shown.find((h) => h.head === chosen.head)
    const weight = chosen.only >= 0 && own ? `  ${(own.weights[chosen.only]?.[i] ?? 0).toFixed(3)}` : ''
    picture.append(
      draw('text', { id: `token-${i}`, x: side - 5, y: y(i), 'text-anchor': 'end', role: 'button', tabindex: 0, 'aria-pressed': pressed, class: pressed ? 'token on' : 'token', click: choose, keydown: key, pointerenter: () => point(i), pointerleave: () => point(-1) }, token),
      draw('text', { x: width - side + 5, y: y(i) }, token, draw('tspan', { class: 'faint' }, weight)),
    )
  })
  return picture
}

function row(look: Look, weights: number[], i: number, colour: string, at: { y: (i: number) => number; width: number; side: number }) {
  return weights.flatMap((w, j) => {
    if (w < 0.02) return []
    const line = draw('line', { x1: at.side, y1: at.y(i) - 5, x2: at.width - at.side, y2: at.y(j) - 5, stroke: colour, 'stroke-width': 0.5 + 4 * w, 'stroke-opacity': Math.min(1, 0.12 + w) })
    line.append(draw('title', {}, `${look.tokens[i]} → ${look.tokens[j]}: ${w.toFixed(3)}`))
    return [line]
  })
}

/** Numbers as coloured cells: blue above 0, orange below. */
function strip(values: number[], most: number) {
  const canvas = make('canvas', { class: 'strip', width: Math.max(1, values.length), height: 1, 'aria-hidden': 'true' })
  const context = canvas.getContext('2d')
  if (!context) return canvas
  const ground = isDark() ? [22, 27, 34] : [245, 246, 248]
  const [above, below] = isDark() ? [[121, 192, 255], [255, 166, 87]] : [[5, 80, 174], [188, 76, 0]]
  const image = context.createImageData(canvas.width, 1)
  values.forEach((v, i) => {
    const strength = Math.min(1, Math.abs(v) / (most || 1))
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = (ground[c] ?? 0) + strength * (((v < 0 ? below : above)[c] ?? 0) - (ground[c] ?? 0))
    image.data[4 * i + 3] = 255
  })
  context.putImageData(image, 0, 0)
  return canvas
}

const largest = (rows: number[][]) => Math.max(1e-9, ...rows.map((row) => Math.max(...row.map(Math.abs))))
const signed = (x: number) => x.toFixed(3).replace('-', '−')

/** The formulas beside the numbers, for one query and one key. */
function neuronView(look: Look, steps: Steps, redraw: () => void) {
  const { query: i, key: j } = chosen
  const [q, k] = [steps.q[i] ?? [], steps.k[j] ?? []]
  const terms = steps.k.map((k) => k.map((x, d) => x * (q[d] ?? 0)))
  const [most, mostTerm] = [largest([...steps.q, ...steps.k]), largest(terms)]
  const names = look.tokens.map((token, t) => `${t}: ${token}`)
  const take = (name: 'query' | 'key') => (at: number) => {
    chosen[name] = at
    redraw()
  }
  const b = steps.bias?.length ? (steps.bias[look.tokens.length - 1 + j - i] ?? 0) : undefined
  const scaled = '× ' + steps.scale.toFixed(4)
  const head = [say('key'), 'k', 'q ⊙ k', 'q·k', b === undefined ? scaled : scaled + ' + b', 'softmax', ''].map((h) => make('th', { scope: 'col' }, h))
  const table = make('table', { class: 'neurons' }, make('thead', {}, make('tr', {}, ...head)))
  const body = make('tbody')
  const scores = steps.scores[i] ?? []
  const weights = steps.weights[i] ?? []
  look.tokens.forEach((token, t) => {
    const choose = make('button', { type: 'button', id: `key-${t}`, 'aria-pressed': t === j, click: () => take('key')(t) }, token)
    const number = (x?: number, digits = 3) => make('td', {}, x === undefined ? '' : x.toFixed(digits).replace('-', '−'))
    const bar = make('td', { class: 'share' }, make('span', { class: 'bar', style: `width: ${(100 * (weights[t] ?? 0)).toFixed(1)}%`, 'aria-hidden': 'true' }))
    body.append(make('tr', { class: t === j ? 'chosen' : '' }, make('th', { scope: 'row' }, choose), make('td', {}, strip(steps.k[t] ?? [], most)), make('td', {}, strip(terms[t] ?? [], mostTerm)), number(steps.products[i]?.[t]), number(scores[t]), number(weights[t], 4), bar))
  })
  const sum = weights.reduce((a, b) => a + b, 0)
  body.append(make('tr', {}, make('th', { scope: 'row' }, 'Σ'), make('td'), make('td'), make('td'), make('td'), make('td', { class: 'sum' }, sum.toFixed(4)), make('td')))
  table.append(body)

  // one product, term by term
  const line = (name: string, values: number[], total?: string) => make('tr', {}, make('th', { scope: 'row' }, name), ...values.map((v) => make('td', {}, signed(v))), make('td', {}, total !== undefined && make('strong', {}, total)))
  const parts = terms[j] ?? []
  const product = parts.reduce((a, b) => a + b, 0)
  const termTable = make('table', {}, line('q', q), line('k', k), line('q ⊙ k', parts, `Σ = ${signed(product)}`))

  const seen = scores.filter((_, t) => (weights[t] ?? 0) > 0)
  const max = Math.max(...seen)
  const total = seen.reduce((a, s) => a + Math.exp(s - max), 0)
  const [s, p] = [scores[j] ?? 0, weights[j] ?? 0]
  const step = (text: string, formula: string, numbers: string) => make('li', {}, make('p', {}, text), make('p', { class: 'formula' }, formula), make('p', { class: 'formula number' }, numbers))
  const [tq, tk] = [look.tokens[i] ?? '', look.tokens[j] ?? '']
  return make(
    'div',
    { class: 'card' },
    make('h2', {}, `${say('neuronView')}: ${say('layer')} ${chosen.layer}, ${say('head')} ${chosen.head}`),
    make('div', { class: 'row' }, choice('choose-query', say('queryToken'), names, i, take('query')), choice('choose-key', say('keyToken'), names, j, take('key'))),
    make('div', { class: 'row query' }, make('span', {}, `q (${tq})`), strip(q, most), make('span', { class: 'hint' }, say('signs'))),
    make('div', { class: 'scroll', tabindex: 0, role: 'group', 'aria-label': say('neuronView') }, table),
    make('h3', {}, `${tq} → ${tk}`),
    make(
      'ol',
      { class: 'steps' },
      step(say('stepQ'), 'q = x W_q + b_q,  k = x W_k + b_k', `D = ${q.length}`),
      make('li', {}, make('p', {}, say('stepK')), make('p', { class: 'formula' }, 'q·k = Σ q_d k_d'), make('div', { class: 'scroll', tabindex: 0, role: 'group', 'aria-label': 'q·k' }, termTable)),
      b === undefined
        ? step(say('stepScale', steps.scale.toFixed(4)), 's = q·k / √D', `s = ${signed(product)} × ${steps.scale.toFixed(4)} = ${signed(s)}`)
        : step(say('stepBias', steps.scale.toFixed(4)), 's = q·k / √D + b_{j − i}', `s = ${signed(product)} × ${steps.scale.toFixed(4)} + ${signed(b)} = ${signed(s)}`),
      p > 0
        ? step(say('stepSoftmax'), 'p_j = exp(s_j − max) / Σ exp(s_i − max)', `p = exp(${signed(s)} − ${signed(max).replace('−', '(−')}${max < 0 ? ')' : ''}) / ${total.toFixed(4)} = ${Math.exp(s - max).toFixed(4)} / ${total.toFixed(4)} = ${p.toFixed(4)}`)
        : step(say('stepUnseen'), 'p = 0', ''),
    ),
  )
}

/** What a task's answer is, in the playground's and the page's way. */
function answerView(answer: unknown): Node {
  const rows = (Array.isArray(answer) && Array.isArray(answer[0]) && typeof answer[0][0] === 'object' ? answer[0] : answer) as Record<string, unknown>[]
  if (Array.isArray(rows) && rows.length && typeof rows[0] === 'object' && typeof rows[0]?.score === 'number') {
    const name = (r: Record<string, unknown>) => String(r.token_str ?? r.label ?? r.word ?? r.entity_group ?? '')
    return bars(rows.slice(0, 5).map((r) => ({ name: name(r), share: r.score as number, value: (r.score as number).toFixed(4) })))
  }
  if (Array.isArray(answer) && typeof answer[0] === 'number') return make('p', { class: 'number' }, `[${(answer as number[]).slice(0, 6).map(short).join(', ')}, …]`)
  if (answer && typeof answer === 'object' && 'perplexity' in answer) {
    const likely = answer as { score: number; tokens: number; perplexity: number }
    return make('p', { class: 'number' }, say('likelihood', short(likely.score), likely.tokens, short(likely.perplexity)))
  }
  return make('pre', {}, JSON.stringify(answer, null, 1))
}

/** What the answer loses without each head, and without those that are off. */
function effectsView(look: Look, redraw: () => void) {
  const effects = look.effects
  if (!effects) return []
  const card = make('div', { class: 'card' }, make('h2', {}, say('ablation')), make('p', { class: 'hint' }, say('ablationHelp'), ' ', say(`measure_${effects.measure}`)))
  const off = effects.off.map(([l, h]) => place(l, h)).join(', ')
  const side = (title: string, value: number, answer: unknown) => make('div', { class: 'side' }, make('h3', {}, title), make('p', { class: 'number' }, `${say(`name_${effects.measure}`)} ${short(value)}`), answerView(answer))
  card.append(make('div', { class: 'sides' }, side(say('allHeads'), effects.whole, effects.answer), effects.value !== null && side(say('withoutHeads', off), effects.value, effects.answer_without)))
  if (look.toggle) {
    const hint = effects.off.length ? make('button', { type: 'button', id: 'all-on', click: () => look.clear?.() }, say('allOn')) : make('span', { class: 'hint' }, say('offHelp'))
    card.append(make('div', { class: 'row' }, hint, !effects.each.length && make('button', { type: 'button', id: 'try-all', click: () => look.tryAll?.() }, say('tryAll'))))
  }
  if (effects.each.length) card.append(each(effects, redraw))
  return [card]
}

function each(effects: Effects, redraw: () => void) {
  const all = effects.each.flatMap((row, l) => row.map((v, h) => ({ l, h, harm: harm(effects, v) })))
  const most = Math.max(1e-9, ...all.map((e) => Math.abs(e.harm)))
  const table = make('table', { class: 'effects' }, make('thead', {}, make('tr', {}, make('th', { scope: 'col' }, `${say('layer')} \\ ${say('head')}`), ...numbered(Math.max(...effects.each.map((r) => r.length))).map((h) => make('th', { scope: 'col' }, h)))))
  const body = make('tbody')
  effects.each.forEach((row, l) => {
    const cells = row.map((value, h) => {
      const worse = harm(effects, value)
      const choose = () => {
        chosen.layer = l
        chosen.head = h
        redraw()
      }
      const share = Math.round((55 * Math.abs(worse)) / most)
      const style = `background: color-mix(in srgb, var(${worse < 0 ? '--bar-two' : '--bar'}) ${share}%, transparent)`
      const text = `${worse < 0 ? '−' : '+'}${Math.abs(worse).toFixed(3)}`
      const label = `${say('layer')} ${l}, ${say('head')} ${h}: ${text}`
      return make('td', { style }, make('button', { type: 'button', id: `effect-${l}-${h}`, 'aria-label': label, 'aria-pressed': l === chosen.layer && h === chosen.head, click: choose }, text))
    })
    body.append(make('tr', {}, make('th', { scope: 'row' }, String(l)), ...cells))
  })
  table.append(body)
  const best = [...all].sort((a, b) => b.harm - a.harm).slice(0, 5)
  const list = bars(best.map((e) => ({ name: place(e.l, e.h), share: Math.max(0, e.harm) / most, value: `${e.harm < 0 ? '−' : '+'}${Math.abs(e.harm).toFixed(4)}` })))
  const names = { loss: 'loseLoss', probability: 'loseShare', number: 'loseNumber', cosine: 'loseShare' } as const
  return make('div', {}, make('p', {}, say(names[effects.measure])), make('div', { class: 'scroll', tabindex: 0, role: 'group', 'aria-label': say('ablation') }, table), make('h3', {}, say('matterMost')), list)
}
