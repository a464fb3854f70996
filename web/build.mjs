// Pages that load nothing from elsewhere: script and style stand inside them. The results are checked in, so that building the programs
// needs neither node nor a network.
import { build } from 'esbuild'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

const here = (path) => new URL(path, import.meta.url).pathname
const read = (path) => readFileSync(here(path), 'utf8')

// entry, frame, result
const pages = [
  ['src/main.ts', 'src/index.html', '../crates/serve/assets/playground.html'],
  ['src/attention_page.ts', 'src/attention.html', '../crates/cloze/assets/attention.html'],
]
for (const [entry, frame, result] of pages) {
  const { outputFiles } = await build({
    entryPoints: [here(entry)],
    bundle: true,
    minify: true,
    target: 'es2022',
    format: 'iife',
    charset: 'utf8',
    write: false,
  })
  const script = outputFiles[0].text.replaceAll('</script', '<\\/script')
  const page = read(frame)
    .replace('/* style */', () => read('src/style.css'))
    .replace('/* script */', () => script)
  mkdirSync(dirname(here(result)), { recursive: true })
  writeFileSync(here(result), page)
}
