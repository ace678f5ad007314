/** Where this user's things lie between runs. */
import { homedir } from 'node:os'
import { join } from 'node:path'

/** Of each kind: our own variable, the desktop's, and the folders of macOS, Windows and others. */
const PLACES = {
  cache: { own: 'CHORALE_CACHE', xdg: 'XDG_CACHE_HOME', mac: 'Caches', windows: 'Cache', home: '.cache' },
  data: { own: 'CHORALE_DATA', xdg: 'XDG_DATA_HOME', mac: 'Application Support', windows: 'Data', home: '.local/share' },
} // prettier-ignore

function folderOf(kind: keyof typeof PLACES, env: NodeJS.ProcessEnv, platform: string): string {
  const { own, xdg, mac, windows, home } = PLACES[kind]
  if (env[own]) return env[own]
  if (env[xdg]) return join(env[xdg], 'chorale')
  if (platform === 'darwin') return join(homedir(), 'Library', mac, 'chorale')
  if (platform === 'win32')
    return join(env.LOCALAPPDATA ?? join(homedir(), 'AppData', 'Local'), 'chorale', windows)
  return join(homedir(), home, 'chorale')
}

/** What can be had again: packs, adapters seen. CHORALE_CACHE, else `chorale` in the platform's folder for caches. */
export const cacheFolder = (env = process.env, platform: string = process.platform): string =>
  folderOf('cache', env, platform)

/** What must outlive a coordinator. CHORALE_DATA, else `chorale` in the platform's folder for data of this user. */
export const dataFolder = (env = process.env, platform: string = process.platform): string =>
  folderOf('data', env, platform)
