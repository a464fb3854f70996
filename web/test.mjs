// The page in a real browser: every view works, in both languages, in the dark, by keyboard and on a phone's width, without a message on
// the console. `node web/test.mjs URL [FOLDER FOR SCREENSHOTS]`; needs playwright-core and a Chromium (CHROMIUM names it).
import assert from 'node:assert/strict'
import { chromium } from 'playwright-core'

const [url, folder] = process.argv.slice(2)
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] })
const errors = []
const outside = []

async function open(options, path = '') {
  const page = await browser.newPage(options)
  page.on('console', (m) => m.type() === 'error' && errors.push(m.text()))
  page.on('pageerror', (e) => errors.push(String(e)))
  page.on('request', (r) => r.url().startsWith(url) || r.url().startsWith('data:') || outside.push(r.url()))
  await page.goto(url + '/' + path)
  await page.waitForSelector('main')
  return page
}
const shoot = async (page, name) => folder && (await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true }))

const wide = await open({ viewport: { width: 1100, height: 800 }, locale: 'en-US' })
const tabs = await wide.locator('[role=tab]').all()
assert.ok(tabs.length >= 3, 'the tasks that the model serves')
for (const tab of tabs) {
  const name = await tab.textContent()
  await tab.click()
  await wide.locator('button[type=submit]').click()
  await wide.waitForSelector('.times')
  assert.equal(await wide.locator('.bad').count(), 0, name)
  await shoot(wide, `try-${(await tab.getAttribute('id')).slice(5)}`)
}

await wide.goto(url + '/#attention')
await wide.waitForSelector('.grid button')
await wide.locator('.grid button').nth(3).click()
await wide.waitForSelector('.grid button[aria-pressed=true] >> nth=0')
await wide.locator('svg [role=button]').nth(2).focus()
await wide.keyboard.press('Enter')
await wide.waitForSelector('svg [aria-pressed=true]')
const sum = await wide.locator('table tr:last-child td:last-child').textContent()
assert.equal(sum, '1.0000', 'weights sum to 1')
await shoot(wide, 'attention')
await wide.goto(url + '/#training')
await wide.waitForSelector('section')
await wide.waitForTimeout(1000)
await shoot(wide, 'training')

const phone = await open({ viewport: { width: 375, height: 700 }, locale: 'zh-CN', colorScheme: 'dark' }, '#attention')
await phone.waitForSelector('.grid button')
assert.equal(await phone.evaluate(() => document.documentElement.lang), 'zh')
assert.equal(await phone.evaluate(() => document.documentElement.dataset.theme), 'dark')
const overflow = await phone.evaluate(() => document.documentElement.scrollWidth - innerWidth)
assert.ok(overflow <= 0, `the page is ${overflow} pixels too wide for a phone`)
await shoot(phone, 'phone-attention')
await phone.goto(url + '/#try')
await phone.waitForSelector('form')
await shoot(phone, 'phone-try')

const docs = await open({ viewport: { width: 900, height: 800 } }, 'docs')
await docs.waitForSelector('summary')
await docs.locator('summary').first().click()
await docs.locator('button').first().click()
await docs.waitForSelector('details[open] > pre:not([hidden])')
await shoot(docs, 'docs')

assert.deepEqual(errors, [], 'no message on the console')
assert.deepEqual(outside, [], 'nothing is loaded from elsewhere')
await browser.close()
console.log('the page is well')
