// The curves of a run, from its log, while it runs.

import { get } from './api'
import { draw, make } from './dom'
import { say } from './words'

interface Run {
  name: string
}

interface Part {
  next: number
  events: { event: string; step: number; loss?: number; learning_rate?: number; tokens_per_second?: number; metrics?: Record<string, number> }[]
}

let chosen = ''
let timer = 0
let turn = 0

export function leaveTraining() {
  turn++
  clearInterval(timer)
}

export function trainingPage() {
  const page = make('section', { 'aria-label': say('training') })
  void open(page)
  return page
}

async function open(page: HTMLElement) {
  const mine = turn
  const runs = await get<Run[]>('/runs').catch(() => [])
  if (mine !== turn) return
  const first = runs.find((r) => r.name === chosen) ?? runs[0]
  if (!first) {
    page.replaceChildren(make('p', { class: 'hint' }, say('noRuns')))
    return
  }
  const curves = make('div', { class: 'curves' })
  const select = make('select', { 'aria-label': say('training'), change: (event) => follow((event.target as HTMLSelectElement).value, curves) })
  for (const run of runs) select.append(make('option', { value: run.name, selected: run.name === first.name }, run.name))
  page.replaceChildren(make('div', { class: 'row' }, select), curves)
  follow(first.name, curves)
}

function follow(name: string, place: HTMLElement) {
  chosen = name
  leaveTraining()
  const mine = turn
  const points: Record<'loss' | 'rate' | 'speed', [number, number][]> = { loss: [], rate: [], speed: [] }
  let next = 0
  let asking = false
  const more = async () => {
    if (asking) return
    asking = true
    try {
      const part = await get<Part>(`/runs/log?name=${encodeURIComponent(name)}&from=${next}`)
      if (mine !== turn) return // another run has been chosen since
      if (part.next < next) for (const list of Object.values(points)) list.length = 0
      next = part.next
      for (const e of part.events) {
        if (e.event !== 'step') continue
        if (e.loss !== undefined) points.loss.push([e.step, e.loss])
        if (e.learning_rate !== undefined) points.rate.push([e.step, e.learning_rate])
        if (e.tokens_per_second !== undefined) points.speed.push([e.step, e.tokens_per_second])
      }
      if (part.events.length || !place.childElementCount)
        place.replaceChildren(curve(say('loss'), points.loss), curve(say('rate'), points.rate), curve(say('speed'), points.speed))
    } catch {
      if (mine === turn) clearInterval(timer)
    }
    asking = false
  }
  void more()
  timer = window.setInterval(more, 2000)
}

/** A line over steps; at most 400 points, each the mean of its stretch. */
function curve(name: string, points: [number, number][]) {
  const [width, height, left, bottom] = [360, 180, 56, 22]
  const stretch = Math.max(1, Math.ceil(points.length / 400))
  const thin: [number, number][] = []
  for (let i = 0; i < points.length; i += stretch) {
    const part = points.slice(i, i + stretch)
    thin.push([part[part.length - 1]![0], part.reduce((sum, p) => sum + p[1], 0) / part.length])
  }
  const last = points[points.length - 1]
  const values = thin.map((p) => p[1])
  const [low, high] = [Math.min(...values), Math.max(...values)]
  const most = Math.max(1, last?.[0] ?? 1)
  const x = (step: number) => left + ((width - left - 4) * step) / most
  const y = (v: number) => 6 + (height - bottom - 12) * (high > low ? (high - v) / (high - low) : 0.5)
  const shown = (v: number) => (v === 0 ? '0' : Math.abs(v) >= 1000 ? v.toFixed(0) : Math.abs(v) < 0.01 ? v.toExponential(1) : v.toPrecision(3))
  const picture = draw('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${name}: ${last ? shown(last[1]) : '–'}` })
  if (thin.length) {
    picture.append(
      draw('polyline', { points: thin.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(' '), fill: 'none', stroke: 'var(--accent)', 'stroke-width': 1.5 }),
      draw('text', { class: 'faint', x: left - 6, y: 14, 'text-anchor': 'end' }, shown(high)),
      draw('text', { class: 'faint', x: left - 6, y: height - bottom, 'text-anchor': 'end' }, shown(low)),
      draw('text', { class: 'faint', x: width - 4, y: height - 6, 'text-anchor': 'end' }, `${say('step')} ${most}`),
    )
  }
  return make('figure', { class: 'card' }, make('figcaption', {}, `${name}  ${last ? shown(last[1]) : ''}`), picture)
}
