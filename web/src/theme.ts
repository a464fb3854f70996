// Light or dark: what was chosen, else what the system says.

import { recall, remember } from './memory'

const root = document.documentElement

export const isDark = () => root.dataset.theme === 'dark'

export function theme(next?: 'light' | 'dark') {
  if (next) remember('theme', next)
  const system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'
  root.dataset.theme = next ?? recall('theme') ?? system
}
