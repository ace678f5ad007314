/** The reference models beside the repository, which a checkout elsewhere does not have. */
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = new URL('../../../shared/models/', import.meta.url)

/** The folder of a shared model, or null (and a printed line) where there is none. */
export function sharedModel(name: string): string | null {
  const path = fileURLToPath(new URL(name, root))
  if (existsSync(path)) return path
  console.log(`skipped: no ../shared/models/${name} beside this checkout`)
  return null
}

export function readJson<T>(folder: string, name: string): T {
  return JSON.parse(readFileSync(`${folder}/${name}`, 'utf8')) as T
}
