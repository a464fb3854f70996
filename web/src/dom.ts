// Elements in one expression.

type Child = Node | string | null | false | undefined
type Attributes = Record<string, string | number | boolean | ((event: Event) => void)>

function fill<E extends Element>(element: E, attributes: Attributes, children: Child[]): E {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name, value)
    else if (name.startsWith('aria-')) element.setAttribute(name, String(value))
    else if (value === true) element.setAttribute(name, '')
    else if (value !== false) element.setAttribute(name, String(value))
  }
  element.append(...children.filter((c): c is Node | string => c !== null && c !== false && c !== undefined))
  return element
}

export function make<T extends keyof HTMLElementTagNameMap>(tag: T, attributes: Attributes = {}, ...children: Child[]) {
  return fill(document.createElement(tag), attributes, children)
}

export function draw<T extends keyof SVGElementTagNameMap>(tag: T, attributes: Attributes = {}, ...children: Child[]) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children)
}

/** Bars with a name, a share of 1 and, below, a text. */
export function bars(rows: { name: string; share: number; value: string; text?: string }[]) {
  const list = make('div', { class: 'bars' })
  for (const row of rows) {
    const width = Math.max(0, Math.min(1, row.share)) * 100
    list.append(
      make('span', { class: 'name' }, row.name),
      make('span', { class: 'bar', style: `width: ${width}%`, 'aria-hidden': 'true' }),
      make('span', { class: 'number' }, row.value),
    )
    if (row.text) list.append(make('span', { class: 'text' }, row.text))
  }
  return list
}
