// The attention explorer on the live model, with heads that can be switched off.

import { onModel, post } from './api'
import { make } from './dom'
import { chosen, explorer, type Effects, type Look, type Steps } from './explorer'
import { say } from './words'

interface Seen {
  tokens: string[]
  /** by layer, head, query, key */
  weights: number[][][][]
  steps: Steps
}

const state: { text: string; off: Map<string, [number, number]>; each: boolean } = { text: '', off: new Map(), each: false }

// Heads of another model that are off would be refused, or be the wrong ones.
onModel(() => {
  state.off.clear()
  state.each = false
})

export function attentionPage() {
  if (!state.text) state.text = say('sample')
  const input = make('input', { type: 'text', id: 'attention-text' })
  input.value = state.text
  const place = make('div')
  let turn = 0
  const load = async () => {
    const mine = ++turn
    if (state.text !== input.value) state.each = false
    state.text = input.value
    const ablate = [...state.off.values()]
    const ask = (layer: number, head: number) => post<Seen>('/attention', { inputs: state.text, layer, head, ablate })
    const effects = post<Effects>('/ablation', { inputs: state.text, ablate, each: state.each }).then((e) => e.value, () => null)
    try {
      const first = await ask(chosen.layer, chosen.head).catch(() => ask((chosen.layer = 0), (chosen.head = 0)))
      const known = new Map([[`${chosen.layer}.${chosen.head}`, first.value.steps]])
      const steps = async (layer: number, head: number) => {
        const at = `${layer}.${head}`
        const found = known.get(at) ?? (await ask(layer, head)).value.steps
        known.set(at, found)
        return found
      }
      const toggle = (layer: number, head: number) => {
        const at = `${layer}.${head}`
        if (!state.off.delete(at)) state.off.set(at, [layer, head])
        void load()
      }
      const look: Look = {
        tokens: first.value.tokens,
        weights: first.value.weights,
        steps,
        effects: await effects,
        isOff: (layer, head) => state.off.has(`${layer}.${head}`),
        toggle,
        clear: () => (state.off.clear(), void load()),
        tryAll: () => ((state.each = true), void load()),
      }
      if (mine !== turn) return
      const focused = place.contains(document.activeElement) ? document.activeElement?.id : ''
      look.drawn = () => {
        look.drawn = undefined
        if (focused) document.getElementById(focused)?.focus()
      }
      place.replaceChildren(explorer(look))
    } catch (error) {
      if (mine !== turn) return
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
  const row = make('div', { class: 'row' }, make('button', { class: 'main', type: 'submit' }, say('run')), make('button', { type: 'button', id: 'twin', click: other }, `${say('sample')} ⇄ ${say('otherSample')}`))
  const form = make('form', { submit }, make('label', { for: 'attention-text' }, say('text')), input, row)
  return make('section', { 'aria-label': say('attention') }, form, place)
}
