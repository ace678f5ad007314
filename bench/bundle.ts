/** Our engine as a page would load it: bundled and minified by Vite, in memory. */

import { gzipSync } from 'node:zlib'
import path from 'node:path'
import { build } from 'vite'
import viteConfig from '../vite.config.ts'

export interface Bundled {
  file: string
  bytes: Uint8Array
  gzipped: number
}

/** @param entries name → file below the repository's root; entry `x` becomes `x.js` @param base where it will be served, with slashes */
export async function bundle(entries: Record<string, string>, base: string): Promise<Bundled[]> {
  const root = path.join(import.meta.dirname, '..')
  const made = await build({
    ...viteConfig,
    configFile: false,
    logLevel: 'warn',
    base,
    build: {
      target: 'esnext',
      write: false,
      assetsInlineLimit: 0,
      modulePreload: false,
      rolldownOptions: {
        input: Object.fromEntries(
          Object.entries(entries).map(([name, file]) => [name, path.join(root, file)]),
        ),
        preserveEntrySignatures: 'strict',
        output: { entryFileNames: '[name].js' },
      },
    },
  })
  const outputs = (Array.isArray(made) ? made : [made]).flatMap((it) => ('output' in it ? it.output : []))
  return outputs.map((it) => {
    const bytes = Buffer.from(it.type === 'chunk' ? it.code : it.source)
    return { file: it.fileName, bytes, gzipped: gzipSync(bytes, { level: 9 }).length }
  })
}
