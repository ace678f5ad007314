/** A benchmark of yesterday's kernels is worse than none. */

import { globSync, statSync } from 'node:fs'
import path from 'node:path'

/** What to do when the WASM modules are missing or older than their sources; null when they are fresh. */
export function staleKernels(root: string): string | null {
  const folder = path.join(root, 'engine', 'backends', 'wasm')
  const times = (pattern: string) =>
    globSync(pattern, { cwd: folder }).map((file) => statSync(path.join(folder, file)).mtimeMs)
  const built = times('*.wasm')
  if (built.length > 0 && Math.min(...built) >= Math.max(...times('assembly/*.ts'))) return null
  return `the WASM kernels are ${built.length > 0 ? 'older than their sources' : 'not built'}: npm run build:wasm`
}
