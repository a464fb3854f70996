// The playground in a real browser, against the real server: every view of every model works, in both languages, in the dark, by keyboard
// and on a phone's width; each interaction is answered within 200 ms; no message on the console; axe-core finds nothing serious.
//
//   node web/test.mjs URL [--page FILE] [--shots FOLDER]
//
// `--page`: the file of `cloze attention --html`, tried the same way from the disk. Needs playwright-core, axe-core and a Chromium (CHROMIUM
// names it); `web/run.sh` starts a server and runs all of it. LIMIT: milliseconds of an interaction, 200 by default.
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { chromium } from 'playwright-core'

const [url, ...rest] = process.argv.slice(2)
const option = (name) => (rest.includes(name) ? rest[rest.indexOf(name) + 1] : undefined)
const [folder, file] = [option('--shots'), option('--page')]
const limit = Number(process.env.LIMIT ?? 200)
if (folder) mkdirSync(folder, { recursive: true })
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] })
const errors = []
const outside = []
const times = []
const findings = []

async function open(options, address) {
  const page = await browser.newPage({ ...options, bypassCSP: true }) // for axe-core, which is put into the page
  page.setDefaultTimeout(60_000)
  page.on('console', (m) => m.type() === 'error' && errors.push(m.text()))
  page.on('pageerror', (e) => errors.push(String(e)))
  page.on('request', (r) => r.url().startsWith(url) || r.url().startsWith('data:') || r.url().startsWith('file:') || outside.push(r.url()))
  await page.goto(address)
  await page.waitForSelector('main')
  const paint = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0)
  times.push([`first paint of ${address.replace(url, '')}`, paint])
  return page
}
const shoot = async (page, name) => folder && (await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true }))

/** Do something to an element, and wait until what matches `ready` was drawn anew (or is there, with `again` false). */
async function act(page, name, selector, ready, { event = 'click', value, again = true } = {}) {
  await page.waitForSelector(selector)
  const took = await page.evaluate(
    async ([selector, ready, event, value, again]) => {
      const element = document.querySelector(selector)
      if (again) document.querySelectorAll(ready).forEach((e) => e.setAttribute('data-old', ''))
      const begin = performance.now()
      if (event === 'click') {
        element.focus()
        element.dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true }))
      } else if (event === 'change') {
        element.value = value
        element.dispatchEvent(new Event('change', { bubbles: true }))
      } else element.dispatchEvent(new KeyboardEvent('keydown', { key: value, bubbles: true, cancelable: true }))
      const there = () => document.querySelector(again ? `:is(${ready}):not([data-old])` : ready)
      while (!there() && performance.now() - begin < 20_000) await new Promise((next) => requestAnimationFrame(next))
      return there() ? performance.now() - begin : Infinity
    },
    [selector, ready, event, value, again],
  )
  times.push([name, took])
  assert.ok(Number.isFinite(took), `${name}: nothing came`)
}

/** axe-core's findings that are serious or critical. */
async function accessible(page, name) {
  await page.evaluate(axe)
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }))
  for (const v of violations.filter((v) => ['serious', 'critical'].includes(v.impact))) {
    findings.push(`${name}: ${v.id} (${v.impact}): ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 120)).join(' … ')}`)
  }
}

async function narrow(page, name) {
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
  assert.ok(overflow <= 0, `${name} is ${overflow} pixels too wide for a phone`)
}

/** Head view, model view, neuron view, and the keyboard. */
async function explore(page, name) {
  await page.waitForSelector('.explorer .grid button')
  const heads = await page.locator('.grid button').count()
  await act(page, `${name}: another head`, '#grid-1-1', '.explorer h2')
  assert.equal(await page.locator('#grid-1-1').getAttribute('aria-pressed'), 'true', `${name}: the head is chosen`)
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'grid-1-1', 'the focus stays where it was')
  await page.keyboard.press('ArrowLeft')
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'grid-1-0', 'arrow keys move between heads')
  await act(page, `${name}: another layer`, '#choose-layer', '.explorer h2', { event: 'change', value: '0' })
  await act(page, `${name}: all heads of the layer`, '#overlay', '.explorer svg')
  await act(page, `${name}: one head again`, '#overlay', '.explorer svg')
  await act(page, `${name}: a token by the keyboard`, '#token-2', '.explorer svg', { event: 'keydown', value: 'Enter' })
  assert.equal(await page.locator('#token-2').getAttribute('aria-pressed'), 'true')
  await act(page, `${name}: all tokens again`, '#token-2', '.explorer svg', { event: 'keydown', value: ' ' })
  await act(page, `${name}: another query`, '#choose-query', '.neurons', { event: 'change', value: '3' })
  await act(page, `${name}: another key`, '#key-1', '.neurons')
  assert.equal(await page.locator('td.sum').textContent(), '1.0000', 'weights sum to 1')
  // The numbers that are shown hang together: Σ q⊙k is the product, times the scale the score, and p is its share.
  const { product, sum, score, weight, formula } = await page.evaluate(() => {
    const number = (text) => Number(text.replaceAll('−', '-').match(/-?[\d.]+$/)[0])
    const cells = [...document.querySelectorAll('.neurons tr.chosen td')].map((td) => td.textContent)
    const lines = [...document.querySelectorAll('ol.steps p.number')].map((p) => p.textContent)
    return { product: number(cells[2]), score: number(cells[3]), weight: number(cells[4]), sum: number(document.querySelector('ol.steps strong').textContent), formula: lines.slice(1).map(number) }
  })
  assert.ok(Math.abs(product - sum) < 2e-3 && Math.abs(score - formula[0]) < 2e-3 && Math.abs(weight - formula[1]) < 2e-4, JSON.stringify({ product, sum, score, weight, formula }))
  return heads
}

const wide = await open({ viewport: { width: 1100, height: 800 }, locale: 'en-US' }, url + '/')
const models = await wide.locator('header select option').allTextContents()
for (const [i, model] of models.entries()) {
  if (i) await act(wide, `model ${model}`, 'header select', 'form', { event: 'change', value: model })
  const tabs = await wide.locator('[role=tab]').all()
  assert.ok(tabs.length >= 3, 'the tasks that the model serves')
  for (const id of await Promise.all(tabs.map((tab) => tab.getAttribute('id')))) {
    await act(wide, `${model}: open ${id}`, `#${id}`, 'form')
    await act(wide, `${model}: run ${id}`, 'form button[type=submit]', '.times')
    assert.equal(await wide.locator('.bad').count(), 0, `${model} ${id}: ${await wide.locator('.bad').allTextContents()}`)
    await shoot(wide, `try-${model}-${id.slice(5)}`)
    await accessible(wide, `${model} ${id}`)
  }

  await wide.goto(url + '/#attention')
  const heads = await explore(wide, model)
  // a head off, and the answer changes
  await wide.waitForSelector('.sides')
  await act(wide, `${model}: head off`, '#toggle-head', '.sides')
  assert.equal(await wide.locator('.side').count(), 2, 'the answer with and without')
  assert.equal(await wide.locator('.grid button.off').count(), 1)
  const [whole, without] = await wide.locator('.side > p.number:nth-child(2)').allTextContents()
  assert.notEqual(whole, without, 'a head that is off changes the answer')
  await act(wide, `${model}: head on`, '#all-on', '.sides')
  assert.equal(await wide.locator('.side').count(), 1)
  const before = times.length
  await act(wide, `${model}: without each of ${heads} heads`, '#try-all', '.effects')
  times.splice(before) // a run of the model for every head: as long as that takes
  assert.equal(await wide.locator('.effects td').count(), heads)
  await act(wide, `${model}: the other sentence`, '#twin', '.explorer')
  await shoot(wide, `attention-${model}`)
  await accessible(wide, `${model} attention`)
  // the next model has all its heads
  await act(wide, `${model}: a head that stays off`, '#toggle-head', '.sides')
  await wide.goto(url + '/#try')
}
await wide.goto(url + '/#training')
await wide.waitForSelector('section select, section p')
await shoot(wide, 'training')
await accessible(wide, 'training')
await act(wide, 'dark', '#theme', 'header')
await accessible(wide, 'training, dark')

const phone = await open({ viewport: { width: 375, height: 700 }, locale: 'zh-CN', colorScheme: 'dark' }, url + '/#attention')
await phone.waitForSelector('.grid button')
assert.equal(await phone.evaluate(() => document.documentElement.lang), 'zh')
assert.equal(await phone.evaluate(() => document.documentElement.dataset.theme), 'dark')
await phone.waitForSelector('.sides')
await narrow(phone, 'the attention page')
await shoot(phone, 'phone-attention')
await accessible(phone, 'phone attention')
await phone.goto(url + '/#try')
await phone.waitForSelector('form')
await narrow(phone, 'the first page')
await shoot(phone, 'phone-try')
await accessible(phone, 'phone try')

const docs = await browser.newPage({ viewport: { width: 900, height: 800 }, bypassCSP: true })
docs.on('console', (m) => m.type() === 'error' && errors.push(m.text()))
await docs.goto(url + '/docs')
await docs.waitForSelector('summary')
await docs.locator('summary').first().click()
await docs.locator('button').first().click()
await docs.waitForSelector('details[open] > pre:not([hidden])')
await shoot(docs, 'docs')
await accessible(docs, 'docs')

if (file) {
  const address = pathToFileURL(file).href
  const page = await open({ viewport: { width: 1100, height: 800 }, locale: 'en-US' }, address)
  await explore(page, 'file')
  assert.equal(await page.locator('#toggle-head').count(), 0, 'there is no model to switch heads of')
  assert.ok((await page.locator('.effects td').count()) > 0)
  await shoot(page, 'file')
  await accessible(page, 'file')
  await act(page, 'file: the other sentence', '#text-1', '.explorer')
  await shoot(page, 'file-zh')
  await act(page, 'file: dark', '#theme', '.explorer')
  await act(page, 'file: language', '#language', '.explorer')
  await shoot(page, 'file-dark')
  await accessible(page, 'file, dark, Chinese')
  const small = await open({ viewport: { width: 375, height: 700 }, locale: 'zh-CN', colorScheme: 'dark' }, address)
  await small.waitForSelector('.grid button')
  await narrow(small, 'the file')
  await shoot(small, 'file-phone')
}

await browser.close()
const slow = times.filter(([, ms]) => ms > limit)
times.sort((a, b) => b[1] - a[1])
console.log(`${times.length} interactions and first paints; the slowest:`)
for (const [name, ms] of times.slice(0, 5)) console.log(`  ${ms.toFixed(0)} ms  ${name}`)
assert.deepEqual(errors, [], 'no message on the console')
assert.deepEqual(outside, [], 'nothing is loaded from elsewhere')
assert.deepEqual(findings, [], 'axe-core finds nothing serious')
assert.deepEqual(slow, [], `everything within ${limit} ms`)
console.log('the page is well')
