// One page that loads nothing from elsewhere: script and style stand inside it. The result is checked in, so that building the
// server needs neither node nor a network.
import { build } from 'esbuild'
import { readFileSync, writeFileSync } from 'node:fs'

const here = (path) => new URL(path, import.meta.url)
const { outputFiles } = await build({
  entryPoints: [here('src/main.ts').pathname],
  bundle: true,
  minify: true,
  target: 'es2022',
  format: 'iife',
  charset: 'utf8',
  write: false,
})
const script = outputFiles[0].text.replaceAll('</script', '<\\/script')
const style = readFileSync(here('src/style.css'), 'utf8')
const page = readFileSync(here('src/index.html'), 'utf8')
  .replace('/* style */', () => style)
  .replace('/* script */', () => script)
writeFileSync(here('../crates/serve/assets/playground.html'), page)
