// The page that tries what the model can do.

import { get, post, type Info, type Timed } from './api'
import { bars, make } from './dom'
import { nameOf, say, type Word } from './words'

interface Field {
  name: string
  label: Word
  lines?: boolean
  start: () => string
}

interface Task {
  route: string
  /** Its name, where it has no word of its own. */
  name?: string
  label?: Word
  hint?: Word
  fields: Field[]
  ask: (values: Record<string, string>) => Promise<[Timed<unknown>, Node]>
}

const percent = (x: number) => `${(100 * x).toFixed(1)} %`
const lines = (text: string) => text.split('\n').map((l) => l.trim()).filter((l) => l)

/** Characters, not code units: offsets of the server count code points. */
function cut(text: string, start: number, end: number) {
  return Array.from(text).slice(start, end).join('')
}

function show<T>(answer: Timed<T>, view: (value: T) => Node): [Timed<unknown>, Node] {
  return [answer, view(answer.value)]
}

interface Candidate {
  score: number
  token_str: string
  sequence: string
}

interface Entity {
  entity_group: string
  score: number
  start: number
  end: number
}

function entities(text: string, found: Entity[]) {
  const line = make('p')
  const kinds = [...new Set(found.map((e) => e.entity_group))].sort()
  let at = 0
  for (const entity of [...found].sort((a, b) => a.start - b.start)) {
    line.append(cut(text, at, entity.start))
    const kind = kinds.indexOf(entity.entity_group) % 6
    line.append(make('mark', { class: `c${kind}`, title: percent(entity.score) }, cut(text, entity.start, entity.end), make('small', {}, ` ${entity.entity_group}`)))
    at = entity.end
  }
  line.append(cut(text, at, Infinity))
  return line
}

export function tasks(info: Info): Task[] {
  const text = (start: () => string, label: Word = 'text'): Field => ({ name: 'text', label, start })
  const all: Task[] = [
    {
      route: '/fill-mask',
      label: 'fillMask',
      hint: 'hintMask',
      fields: [text(() => say('example1', info.mask_token ?? '[MASK]'))],
      ask: async (v) =>
        show(await post<Candidate[] | Candidate[][]>('/fill-mask', { inputs: v.text }), (answer) => {
          const masks = (Array.isArray(answer[0]) ? answer : [answer]) as Candidate[][]
          const list = (candidates: Candidate[]) =>
            bars(candidates.map((c) => ({ name: c.token_str, share: c.score, value: percent(c.score), text: c.sequence })))
          return make('div', {}, ...masks.map(list))
        }),
    },
    {
      route: '/predict',
      label: 'classify',
      fields: [text(() => say('example2'))],
      ask: async (v) =>
        show(await post<{ label: string; score: number }[]>('/predict', { inputs: v.text }), (labels) =>
          bars(labels.map((l) => ({ name: l.label, share: l.score, value: percent(l.score) }))),
        ),
    },
    {
      route: '/tag',
      label: 'tag',
      fields: [text(() => say('example3'))],
      ask: async (v) =>
        show(await post<Entity[]>('/tag', { inputs: v.text }), (found) => {
          if (!found.length) return make('p', { class: 'hint' }, say('none'))
          const rows = found.map((e) => ({ name: cut(v.text ?? '', e.start, e.end), share: e.score, value: `${e.entity_group} ${percent(e.score)}` }))
          return make('div', {}, entities(v.text ?? '', found), bars(rows))
        }),
    },
    {
      route: '/answer',
      label: 'answer',
      fields: [
        { name: 'question', label: 'question', start: () => say('exampleQ') },
        { name: 'context', label: 'context', lines: true, start: () => say('example3') },
      ],
      ask: async (v) =>
        show(await post<{ answer: string; score: number; start: number; end: number }>('/answer', { inputs: { question: v.question, context: v.context } }), (a) => {
          const context = v.context ?? ''
          const marked = make('p', {}, cut(context, 0, a.start), make('mark', {}, cut(context, a.start, a.end)), cut(context, a.end, Infinity))
          return make('div', {}, make('p', {}, make('strong', {}, a.answer || say('none')), ` ${percent(a.score)}`), marked)
        }),
    },
    {
      route: '/similarity',
      label: 'search',
      hint: 'hintSearch',
      fields: [
        { name: 'query', label: 'query', start: () => say('sample') },
        { name: 'lines', label: 'lines', lines: true, start: () => say('exampleLines') },
      ],
      ask: async (v) => {
        const sentences = lines(v.lines ?? '')
        return show(await post<number[]>('/similarity', { inputs: { source_sentence: v.query, sentences } }), (cosines) =>
          bars(
            sentences
              .map((name, i) => ({ name, share: cosines[i] ?? 0, value: (cosines[i] ?? 0).toFixed(3) }))
              .sort((a, b) => b.share - a.share),
          ),
        )
      },
    },
    {
      route: '/rerank',
      label: 'rerank',
      fields: [
        { name: 'query', label: 'query', start: () => say('sample') },
        { name: 'lines', label: 'lines', lines: true, start: () => say('exampleLines') },
      ],
      ask: async (v) => {
        const texts = lines(v.lines ?? '')
        return show(await post<{ index: number; score: number }[]>('/rerank', { query: v.query, texts }), (ranks) =>
          bars(ranks.map((r) => ({ name: texts[r.index] ?? '', share: r.score, value: percent(r.score) }))),
        )
      },
    },
    {
      route: '/tokenize',
      label: 'tokens',
      fields: [text(() => say('sample'))],
      ask: async (v) =>
        show(await post<{ id: number; text: string; special: boolean }[][]>('/tokenize', { inputs: v.text }), (texts) =>
          make('p', { class: 'tokens' }, ...(texts[0] ?? []).map((t) => make('span', { class: t.special ? 'token special' : 'token', title: `id ${t.id}` }, t.text))),
        ),
    },
  ]
  const known = all.filter((task) => info.routes.includes(task.route))
  // What has no view of its own is asked and shown as JSON.
  const own = ['/embed', '/embed_all', '/classify', '/v1/embeddings', '/v1/rerank', '/attention', '/ablation', ...all.map((t) => t.route)]
  const others = info.routes.filter((route) => !own.includes(route)).map(
    (route): Task => ({
      route,
      name: nameOf(route),
      fields: [{ name: 'json', label: 'json', lines: true, start: () => JSON.stringify(samples[route] ?? {}, null, 1) }],
      ask: async (v) => show(await post<unknown>(route, JSON.parse(v.json ?? '{}')), (answer) => make('pre', {}, JSON.stringify(answer, null, 1))),
    }),
  )
  return [...known, ...others]
}

/** An input of each route, from the server's own description. */
let samples: Record<string, unknown> = {}

export async function loadSamples() {
  const api = await get<{ paths: Record<string, { post?: { requestBody?: { content: Record<string, { example?: unknown }> } } }> }>('/openapi.json')
  samples = Object.fromEntries(Object.entries(api.paths).map(([path, p]) => [path, p.post?.requestBody?.content['application/json']?.example]))
}

let chosen = ''

export function tryPage(info: Info) {
  const list = tasks(info)
  const page = make('section', { 'aria-label': say('try') })
  const place = make('div')
  const buttons = make('div', { class: 'choices', role: 'tablist' })
  const open = (task: Task) => {
    chosen = task.route
    for (const button of buttons.children) button.setAttribute('aria-selected', String(button.id === `task${task.route.replace('/', '-')}`))
    place.replaceChildren(form(task))
  }
  for (const task of list) {
    const id = `task${task.route.replace('/', '-')}`
    buttons.append(make('button', { id, role: 'tab', 'aria-selected': false, click: () => open(task) }, task.label ? say(task.label) : task.name))
  }
  page.append(buttons, place)
  const first = list.find((t) => t.route === chosen) ?? list[0]
  if (first) open(first)
  return page
}

function form(task: Task) {
  const inputs: Record<string, HTMLInputElement | HTMLTextAreaElement> = {}
  const result = make('div', { 'aria-live': 'polite' })
  const button = make('button', { class: 'main', type: 'submit' }, say('run'))
  const run = async () => {
    button.disabled = true
    const values = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value]))
    try {
      const [times, view] = await task.ask(values)
      const told = say('times', times.round.toFixed(1), times.total, times.queue, times.inference, times.tokens)
      result.replaceChildren(make('div', { class: 'card' }, view, make('p', { class: 'times' }, told)))
    } catch (error) {
      result.replaceChildren(make('p', { class: 'card bad' }, error instanceof Error ? error.message : String(error)))
    }
    button.disabled = false
  }
  const submit = (event: Event) => {
    event.preventDefault()
    void run()
  }
  const fields = task.fields.flatMap((field) => {
    const id = `field-${field.name}`
    const input = field.lines ? make('textarea', { id, rows: 4 }) : make('input', { id, type: 'text' })
    input.value = field.start()
    inputs[field.name] = input
    return [make('label', { for: id }, say(field.label)), input]
  })
  const hint = task.hint && make('p', { class: 'hint' }, say(task.hint))
  return make('div', {}, make('form', { submit }, ...fields, hint, make('div', { class: 'row' }, button)), result)
}
