/** Installs what we compare against, the first time it is needed; nothing of it is a dependency of the product. */

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'

const here = path.join(import.meta.dirname, 'peers')

interface Manifest {
  version: string
  dependencies: Record<string, string>
}

const manifest = (file: string): Manifest => JSON.parse(readFileSync(file, 'utf8')) as Manifest

/** Name → installed version. Installs when one is missing or of another version. */
export function ensurePeers(say: (line: string) => void): {
  folder: string
  versions: Record<string, string>
} {
  const wanted = manifest(path.join(here, 'package.json')).dependencies
  const folder = path.join(here, 'node_modules')
  const installed = (name: string): string | null => {
    const file = path.join(folder, name, 'package.json')
    return existsSync(file) ? manifest(file).version : null
  }
  if (Object.entries(wanted).some(([name, version]) => installed(name) !== version)) {
    say('installing the peers into bench/peers (about 450 MB, once) …')
    const run = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
      cwd: here,
      stdio: 'pipe',
    })
    if (run.status !== 0) {
      const why = run.stderr?.toString().trim().split('\n').slice(-3).join('\n')
      throw new Error(
        `the peers could not be installed in bench/peers (is there a network?): npm ci said\n${why}`,
      )
    }
  }
  return {
    folder,
    versions: Object.fromEntries(Object.keys(wanted).map((name) => [name, installed(name) ?? '?'])),
  }
}
