/** The built pages: dist/client, built again where their sources are newer and Vite is at hand. */
import { readdir, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = join(root, 'dist/client')
/** What the pages are built from. */
const SOURCES = ['client', 'engine', 'protocol', 'shaders', 'vite.client.config.ts']

/** The folder, or null where there are no pages and no way to build them. Half a second where it has to build. */
export async function builtPages(say: (line: string) => void): Promise<string | null> {
  const built = await stat(join(folder, 'index.html')).then((s) => s.mtimeMs, () => 0) // prettier-ignore
  if (built && built >= (await newest(SOURCES.map((name) => join(root, name))))) return folder
  // A development dependency: an installation without it serves what was built before.
  const vite = await import('vite').catch(() => null)
  if (!vite) return built ? folder : null
  say('Building the pages …')
  await vite.build({ configFile: join(root, 'vite.client.config.ts'), logLevel: 'error' })
  return folder
}

async function newest(paths: readonly string[]): Promise<number> {
  let latest = 0
  for (const path of paths) {
    const stats = await stat(path).catch(() => null)
    if (!stats) continue
    latest = Math.max(latest, stats.mtimeMs)
    if (!stats.isDirectory()) continue
    const entries = await readdir(path)
    latest = Math.max(latest, await newest(entries.map((name) => join(path, name))))
  }
  return latest
}

/** Vite's middlewares: pages that reload themselves as their sources change. */
export async function livePages(): Promise<{
  handler: import('vite').Connect.Server
  close: () => Promise<void>
}> {
  const vite = await import('vite')
  const server = await vite.createServer({
    configFile: join(root, 'vite.client.config.ts'),
    logLevel: 'warn',
    clearScreen: false,
    server: { middlewareMode: true, hmr: { port: await freePort() } },
  })
  return { handler: server.middlewares, close: () => server.close() }
}

/** For the socket that tells pages to reload: Vite's own choice is one fixed port, and a second copy would have none. */
async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}
