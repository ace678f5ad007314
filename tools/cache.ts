/** The packs that are kept between runs. */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { cacheFolder } from './folders.ts'

export const packsFolder = (env?: NodeJS.ProcessEnv): string => join(cacheFolder(env), 'packs')

export interface CachedPack {
  name: string
  path: string
  bytes: number
  /** When it was packed. */
  modified: Date
}

/** The finished packs of the cache, by name. */
export async function cachedPacks(): Promise<CachedPack[]> {
  const folder = packsFolder()
  const packs: CachedPack[] = []
  for (const name of await readdir(folder).catch(() => [])) {
    const path = join(folder, name)
    const manifest = await stat(join(path, 'manifest.json')).catch(() => null)
    // `.partial-` and `.old-` folders are another process's work in progress.
    if (!manifest || (name.includes('.') && /\.(partial|old)-\d+-/.test(name))) continue
    let bytes = 0
    for (const file of await readdir(path)) bytes += (await stat(join(path, file))).size
    packs.push({ name, path, bytes, modified: manifest.mtime })
  }
  return packs.sort((a, b) => (a.name < b.name ? -1 : 1))
}
