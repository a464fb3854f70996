// The frame: model, language, theme, and three pages.

import { info as ask, setModel, type Info } from './api'
import { attentionPage } from './attention'
import { make } from './dom'
import { loadSamples, tryPage } from './tasks'
import { isDark, theme } from './theme'
import { leaveTraining, trainingPage } from './training'
import { languageTag, otherLanguage, say, type Word } from './words'

const pages: { name: Word; open: (info: Info) => HTMLElement }[] = [
  { name: 'try', open: tryPage },
  { name: 'attention', open: attentionPage },
  { name: 'training', open: trainingPage },
]

const root = document.documentElement
const app = document.querySelector('#app')!
let info: Info

const current = () => pages.find((p) => `#${p.name}` === location.hash) ?? pages[0]!

function render() {
  leaveTraining()
  root.lang = languageTag()
  const page = current()
  const models = make('select', {
    'aria-label': say('model'),
    change: async (event) => {
      setModel((event.target as HTMLSelectElement).value)
      info = await ask()
      render()
    },
  })
  for (const name of info.models) models.append(make('option', { value: name, selected: name === info.model_id }, name))
  const link = (p: (typeof pages)[number]) =>
    make('button', { 'aria-pressed': p === page, click: () => void (location.hash = p.name) }, say(p.name))
  const dark = isDark()
  app.replaceChildren(
    make(
      'header',
      {},
      make('h1', {}, 'Cloze'),
      make('nav', { 'aria-label': 'Cloze' }, ...pages.map(link)),
      make('span', { class: 'space' }),
      models,
      make('button', { id: 'theme', 'aria-pressed': dark, click: () => (theme(dark ? 'light' : 'dark'), render()) }, say('theme')),
      make('button', { id: 'language', lang: languageTag() === 'en' ? 'zh' : 'en', click: () => (otherLanguage(), render()) }, say('language')),
      make('a', { href: './docs' }, say('routes')),
    ),
    make('main', {}, page.open(info)),
  )
}

theme()
addEventListener('hashchange', render)
ask()
  .then(async (answer) => {
    await loadSamples()
    info = answer
    setModel(answer.model_id)
    render()
  })
  .catch((error) => app.replaceChildren(make('p', { class: 'bad' }, String(error))))
