/** What the tests of packs share: a scratch folder, a small model, a pack as bytes. */
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { packFolder } from '../../tools/pack/folder.ts'

export const root = fileURLToPath(new URL('../../', import.meta.url))
export const fixture = (name: string): string => join(root, 'test/fixtures', name)

export function scratch(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'chorale-pack-'))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

/** The files of a model packed into memory. */
export async function packed(folder: string, tokens = 64): Promise<Record<string, Uint8Array>> {
  const { path, remove } = scratch()
  try {
    const out = join(path, 'pack')
    await packFolder(folder, { out, name: 'specimen', tokens })
    return filesOf(out)
  } finally {
    remove()
  }
}

export function filesOf(folder: string): Record<string, Uint8Array> {
  return Object.fromEntries(
    readdirSync(folder)
      .sort()
      .map((file) => [file, new Uint8Array(readFileSync(join(folder, file)))]),
  )
}

/** A copy of a model folder that a test may damage. */
export function copyModel(from: string, to: string): string {
  mkdirSync(to, { recursive: true })
  for (const file of readdirSync(from)) copyFileSync(join(from, file), join(to, file))
  return to
}
